# SPDX-License-Identifier: Apache-2.0
"""What docs/topics.md tells readers to run gives what it says, against a real broker; its record is a valid one."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from jsonschema import Draft202012Validator

from schemas.flow import decode_flow
from tests.docs.printed.commands import ROOT
from tests.support.services import readable
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id, node, other, pod
from tests.support.sinks.topics import Topics

PAGE = (ROOT / "docs/topics.md").read_text()
EXAMPLE = ROOT / "docs/examples/consume.py"
DEFAULT_TOPIC, DEFAULT_BOOTSTRAP = "zonemeter.flows.enriched.v1", "127.0.0.1:9092"
DEADLINE_SECONDS = 120.0

# Row 3 comes again, and an older one after it; outer packets, other scopes and unknown ends stand between.
FLOWS = [
    flow(id=flow_id(9, 2), bytes=1),
    flow(id=flow_id(9, 3), bytes=10),
    flow(id=flow_id(9, 3), bytes=10),
    flow(id=flow_id(9, 2), bytes=1),
    flow(id=flow_id(10, 0), bytes=100, source=node("node-a1", "a")),
    flow(id=flow_id(10, 1), bytes=1_000, source=other("cidr", "b", name="orders-db")),
    flow(id=flow_id(10, 2), bytes=10_000, encapsulation="vxlan"),
    flow(id=flow_id(10, 3), bytes=100_000, scope="same_zone", destination=pod("cart", "a")),
    flow(id=flow_id(10, 4), bytes=1_000_000, scope="external", destination=EXTERNAL),
    flow(id=flow_id(10, 5), bytes=2, source=API, destination=POSTGRES),
]
CROSS_ZONE = [1, 10, 100, 1_000, 2]


@pytest.fixture
def filled(topics: Topics) -> Topics:
    topics.produce({1: FLOWS, 2: [flow(id=flow_id(10, 0, node="node-b1"), bytes=20)]})
    return topics


def adapted(text: str, topics: Topics) -> str:
    """Let a printed text speak of this test's topic and broker."""
    assert DEFAULT_TOPIC in text
    return text.replace(DEFAULT_TOPIC, topics.settings.topics.enriched).replace(
        DEFAULT_BOOTSTRAP, topics.settings.kafka_bootstrap
    )


def read_until(process: "subprocess.Popen[bytes]", wanted: int) -> list[bytes]:
    """Return the first lines of a process that goes on forever."""
    assert process.stdout is not None
    deadline = time.monotonic() + DEADLINE_SECONDS
    lines: list[bytes] = []
    while len(lines) < wanted:
        left = deadline - time.monotonic()
        assert left > 0, lines
        assert readable(process.stdout.fileno(), left), lines
        line = process.stdout.readline()
        assert line, process.stderr.read().decode() if process.stderr else ""
        lines.append(line)
    return lines


def run_python(script: Path, wanted: int) -> list[bytes]:
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    try:
        return read_until(process, wanted)
    finally:
        process.kill()
        process.communicate()


def test_the_confluent_example_counts_each_flow_once(filled: Topics, tmp_path: Path) -> None:
    script = tmp_path / "consume.py"
    script.write_text(adapted(EXAMPLE.read_text(), filled))
    (line,) = run_python(script, 1)
    assert json.loads(line) == {"shop": 1 + 10 + 2 + 20, "node": 100, "orders-db": 1_000}


def test_the_aiokafka_example_counts_each_flow_once(filled: Topics, tmp_path: Path) -> None:
    (block,) = [block for block in re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL) if "aiokafka" in block]
    script = tmp_path / "consume.py"
    script.write_text(adapted(block, filled))
    lines = run_python(script, len(CROSS_ZONE) + 1)
    assert sorted(int(line.split()[-1]) for line in lines) == sorted([*CROSS_ZONE, 20])


def test_the_example_on_the_page_is_the_files() -> None:
    code = EXAMPLE.read_text()
    for line in ('origin, *numbers = flow_id.rsplit("/", 4)', "at = tuple(map(int, numbers))"):
        assert line in code
        assert line.replace("flow_id", 'flow["id"]') in PAGE


def test_the_shell_lines_run(filled: Topics) -> None:
    blocks = [block for block in re.findall(r"```\n(.+?)```", PAGE, re.DOTALL) if block.startswith("kcat")]
    assert len(blocks) == 2
    outputs = []
    for block in blocks:
        command = f"set -o pipefail; {adapted(block, filled)}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=DEADLINE_SECONDS)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        outputs.append(done.stdout.decode())
    assert outputs[0].count('"id"') == 6, "the last five of the partition with ten, the one of the other"
    top = [line.split("\t") for line in outputs[1].splitlines()]
    assert [int(row[0]) for row in top] == [1_000, 100, 20, 10, 10, 2, 1, 1]
    assert top[0][2] == "orders-db"
    assert top[2] == ["20", "shop", "api", "shop", "postgres"]


def test_the_record_on_the_page_is_valid() -> None:
    (text,) = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    schema = orjson.loads((ROOT / "schemas/flow.v1.schema.json").read_bytes())
    Draft202012Validator(schema).validate(json.loads(text))
    assert decode_flow(text.encode()).scope == "cross_zone"
