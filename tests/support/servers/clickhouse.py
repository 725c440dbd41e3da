# SPDX-License-Identifier: Apache-2.0
"""ClickHouse in a process of its own (chDB), without a server: a process, since its library takes signals over."""

import subprocess
import sys
from typing import Any

import orjson

# It reads files below its working directory only.
_SCRIPT = """
import sys, orjson
from chdb.session import Session
session = Session()
for statement in orjson.loads(sys.stdin.buffer.read()):
    answer = session.query(statement, 'JSONEachRow')
sys.stdout.buffer.write(answer.bytes() or b'')
session.close()
"""


def clickhouse(*statements: str) -> list[dict[str, Any]]:
    """Return the rows that the last of some statements gives; of 64-bit numbers some are texts."""
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT]
    ran = subprocess.run(command, input=orjson.dumps(statements), capture_output=True, timeout=120, cwd="/")
    assert ran.returncode == 0, ran.stderr.decode()
    return [orjson.loads(line) for line in ran.stdout.splitlines()]
