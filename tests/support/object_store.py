# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on this machine: Adobe's S3Mock, which scripts/setup fetches from Maven Central."""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.kafka.broker import free_port
from tests.support.services import eventually

BUCKET = "flows"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
_JARS = Path(__file__).resolve().parents[2] / ".cache/s3mock"


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """Serve S3 on loopback; give the URI of an empty bucket without a path, its query at the end.

    The caller puts `KEYS` into the environment of whoever reads or writes there.
    """
    (jar,) = _JARS.glob("s3mock-*-exec.jar")
    port = free_port()
    settings = "--com.adobe.testing.s3mock"
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", str(jar), "--server.port=0"]
    command += [f"{settings}.httpPort={port}", f"{settings}.store.initial-buckets={BUCKET}"]
    command += [f"{settings}.store.root={directory}"]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        eventually(lambda: _answers(port))
        yield f"s3://{BUCKET}{{path}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{BUCKET}?list-type=2", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
