# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on this machine: versitygw, which scripts/setup builds, over a directory."""

import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.kafka.broker import free_port
from tests.support.services import eventually

BUCKET = "flows"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests-secret", "AWS_EC2_METADATA_DISABLED": "true"}
_PROGRAMS = Path(__file__).resolve().parents[2] / ".cache/bin"


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """Serve S3 on loopback; give the URI of an empty bucket without a path, its query at the end.

    The caller puts `KEYS` into the environment of what reads or writes there.
    """
    port = free_port()
    (directory / "data" / BUCKET).mkdir(parents=True)
    (program,) = _PROGRAMS.glob("versitygw-*")
    command = [str(program), "--port", f"127.0.0.1:{port}", "posix", str(directory / "data")]
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, env=os.environ | keys)
    try:
        eventually(lambda: _answers(port))
        yield f"s3://{BUCKET}{{path}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.kill()
        server.wait()


def port_of(uri: str) -> int:
    """Return the port in such a URI."""
    return int(re.search(r"127\.0\.0\.1:(\d+)", uri)[1])  # type: ignore[index]


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{BUCKET}?list-type=2", timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 403  # it wants a signature
    except OSError:
        return False
    return False
