# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on this machine: versitygw, which scripts/setup builds, over a directory."""

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import botocore.session

from lab.kafka.broker import free_port
from tests.support.services import eventually

BUCKET = "flows"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests-secret", "AWS_EC2_METADATA_DISABLED": "true"}
_PROGRAMS = Path(__file__).resolve().parents[3] / ".cache/bin"


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """Serve S3 on loopback; give the URI of an empty bucket without a path, its query at the end.

    The caller puts `KEYS` into the environment of what reads or writes there.
    """
    port = free_port()
    (directory / "data" / BUCKET).mkdir(parents=True)
    program = _program()
    (directory / "users").mkdir()
    command = [
        str(program),
        "--iam-dir",
        str(directory / "users"),
        "--port",
        f"127.0.0.1:{port}",
        "posix",
        str(directory / "data"),
    ]
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, env=os.environ | keys)
    try:
        eventually(lambda: _answers(port))
        yield f"s3://{BUCKET}{{path}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.kill()
        server.wait()


@contextmanager
def s3_bucket(directory: Path) -> Iterator[str]:
    """Serve S3 as `s3_server` does, with `KEYS` in the environment of this process meanwhile."""
    with patch.dict(os.environ, KEYS), s3_server(directory) as uri:
        yield uri


def add_user(uri: str, name: str) -> dict[str, str]:
    """Make a user without rights; return its credentials as variables."""
    keys = {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": f"{name}-secret"}
    root = ["--access", KEYS["AWS_ACCESS_KEY_ID"], "--secret", KEYS["AWS_SECRET_ACCESS_KEY"]]
    new = ["create-user", "--role", "user", "--access", name, "--secret", keys["AWS_SECRET_ACCESS_KEY"]]
    end_point = ["--endpoint-url", f"http://127.0.0.1:{port_of(uri)}"]
    subprocess.run([str(_program()), "admin", *root, *end_point, *new], check=True, timeout=60, capture_output=True)
    return keys


def put_policy(uri: str, statements: list[dict[str, Any]]) -> None:
    """Set what users may do in the bucket."""
    client = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port_of(uri)}",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))


def _program() -> Path:
    (program,) = _PROGRAMS.glob("versitygw-*")
    return program


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
