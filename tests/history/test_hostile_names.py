# SPDX-License-Identifier: Apache-2.0
"""Names as somebody chooses them who wants to reach a terminal or a spreadsheet, through every command's output."""

import asyncio
import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli import top, topics
from common.kafka import clients
from doctor import command as doctor
from history import dead_letters
from history.audit import command as audit
from history.cidrs import command as cidrs
from history.replay import command as replay
from history.report import command as report
from lab.kafka.broker import Broker
from prices import command as prices
from schemas.dead_letter import dead_letter
from schemas.flow import Observer, Workload
from schemas.ids import Origin
from schemas.ledger import encode_ledger
from schemas.topology import encode_topology
from tests.history.conftest import Command
from tests.support.builders import amount, collector_entry, enricher_entry, sink_entry
from tests.support.enricher import build
from tests.support.sinks import flows
from tests.support.sinks.topics import Topics

# What a terminal obeys (C0, C1), shows elsewhere than it stands (bidirectional), does not show; markup; formulas.
NAMES = (
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m\x85",
    "gnp\u202eexe\u2066",
    "ze\u200bro\u2060\ufeff\u034f\U000e0041",
    "two\nlines\r",
    "[bold red]markup",
    "=cmd|' '!A0",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\uff1d1",
)
# Those that a raw chunk's own pattern lets through.
RAW_NAMES = [name for name in NAMES if name.isprintable() or name.startswith(("\x9b", "gnp"))]
WINDOW_MS = 10_000
_WINDOWS = 40


@dataclass
class Hostile:
    topics: Topics
    map: Path
    prices: Path

    @property
    def flags(self) -> list[str]:
        return self.topics.flags


@pytest.fixture(scope="module")
def hostile(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """Topics in which every name that can be chosen is one of those."""
    made = Topics.make(broker.bootstrap)
    asyncio.run(_publish(made))
    directory = tmp_path_factory.mktemp("hostile")
    quoted = json.dumps(NAMES[0])
    (directory / "map.toml").write_text(f'[[cidr]]\ncidr = "10.99.0.0/16"\nname = {quoted}\nzone = {quoted}\n')
    (directory / "prices.toml").write_text(f"title = {quoted}\ncurrency = {quoted}\n")
    yield Hostile(made, directory / "map.toml", directory / "prices.toml")


async def _publish(made: Topics) -> None:
    producer = clients.new_producer(made.settings)
    await producer.start()
    try:
        for topic, key, value, at_ms in _records(made):
            await producer.send(topic, value, key=key, partition=0, timestamp_ms=at_ms)
        await producer.flush()
    finally:
        await producer.stop()


def _records(made: Topics) -> Iterator[tuple[str, bytes, bytes, int]]:
    names = made.settings.topics
    # `top` may begin with any of these windows but the first ones: nobody knows when it is asked.
    first = time.time_ns() // 1_000_000 // WINDOW_MS * WINDOW_MS - 5 * WINDOW_MS
    for number, name in enumerate(NAMES):
        for window in range(_WINDOWS):
            start = first + window * WINDOW_MS
            yield names.enriched, b"node", json.dumps(_flow(name, start, window, number)).encode(), start + WINDOW_MS
        letter = dead_letter(name, name, name, name, 1, 2, first, name.encode(), name.encode())
        yield names.dead_letter, b"node", letter, first
        node = build.node(name, f"10.0.0.{number + 1}", name, from_ms=first - 1_000, uid=name)
        pod = {"namespace": name, "from_ms": first - 1_000, "workload": Workload(name, name), "uid": f"pod {name}"}
        for state in (node, build.pod(name, f"10.42.0.{number + 1}", name, **pod)):
            yield names.topology, state.key, encode_topology(state), first
        for entry in _entries(name, first):
            yield names.ledger, entry.key, encode_ledger(entry), first + WINDOW_MS
    for name in RAW_NAMES:
        rows = [build.row(f"10.42.0.{NAMES.index(name) + 1}", "10.99.0.1", dst_port=5432)]
        head = {"node": name, "cluster": name, "start_ms": first, "end_ms": first + WINDOW_MS}
        yield names.raw, name.encode(), build.encoded(rows, **head), first + WINDOW_MS


def _flow(name: str, start: int, window: int, number: int) -> dict[str, Any]:
    ends = {
        "source": flows.pod(name, name, address=f"10.42.0.{number + 1}"),
        "destination": flows.other("cidr", f"{name}2", name=name, address="10.99.0.1"),
        "observer": Observer(name, flows.cloud(name)),
    }
    made = flows.flow(id=flows.flow_id(window + 1, node=name), start_ms=start, end_ms=start + WINDOW_MS, **ends)
    document: dict[str, Any] = json.loads(msgspec.json.encode(made))
    document["k8s"]["cluster"]["name"] = name
    document["source"]["k8s"]["namespace"]["name"] = name
    document["source"]["k8s"]["pod"]["name"] = name
    return document


def _entries(name: str, start: int) -> Iterator[Any]:
    origin = Origin("lab", name, "5be6c2f0a91d")
    when = {"start_ms": start, "end_ms": start + WINDOW_MS}
    more = {name: amount(100)}
    yield collector_entry(1, 1_000, origin, lost=more, aside=more, **when)
    yield enricher_entry(1, 900, origin, senders=more, foreign_source=more, aside=more, **when)
    yield sink_entry("metrics", NAMES.index(name), {1: 800}, origin)


OUTPUTS = [
    # First: what it shows is soon too old to be shown.
    (top.main, "table", ["--once"]),
    (top.main, "json", ["--once"]),
    (report.main, "table", ["--prices", "aws", "--top", "100"]),
    (report.main, "json", ["--top", "100"]),
    (report.main, "csv", []),
    (report.main, "html", []),
    (report.main, "table", ["-n", NAMES[0] + "x"]),
    (replay.main, "table", []),
    (replay.main, "json", []),
    (replay.main, "csv", []),
    (replay.main, "table", ["--from-raw"]),
    (replay.main, "csv", ["--from-raw"]),
    (replay.main, "table", ["--from-raw", "--diff"]),
    (replay.main, "json", ["--from-raw", "--diff"]),
    (replay.main, "csv", ["--from-raw", "--diff"]),
    (replay.main, "table", ["--zone", "nowhere"]),
    (audit.main, "table", ["--settle-seconds", "0"]),
    (audit.main, "table", ["--settle-seconds", "0", "--by", "node", "--deep"]),
    (audit.main, "table", ["--node", "nobody"]),
    (audit.main, "json", ["--settle-seconds", "0", "--deep"]),
    (dead_letters.main, "table", []),
    (dead_letters.main, "json", []),
    (cidrs.suggest, "table", []),
    (cidrs.suggest, "json", []),
    (cidrs.suggest, "csv", []),
    (cidrs.suggest, "toml", []),
    (doctor.main, "table", ["--pipeline-only"]),
    (doctor.main, "json", ["--pipeline-only"]),
]


@pytest.mark.parametrize(("main", "output", "flags"), OUTPUTS, ids=lambda value: getattr(value, "__module__", None))
def test_no_output_has_what_a_terminal_obeys_or_a_spreadsheet_reckons(
    main: Any, output: str, flags: list[str], hostile: Hostile, command: Command
) -> None:
    status, out, err = command(main, *hostile.flags, "-o", output, *flags)
    assert status in (0, 1), err
    assert out or err
    # Bytes for programs are as they are, but on a terminal: tests/common/test_terminal.py.
    is_data = output == "csv" or (main is replay.main and output == "json")
    assert_harmless(err if is_data else out + err)
    if output == "json":
        text = "\n".join(_strings(_documents(out)))
        # Of the peers only some are listed; the doctor counts.
        assert main in (doctor.main, cidrs.suggest) or [name for name in NAMES if name not in text] == [], (
            "data is data"
        )
    if output == "csv":
        cells = [each for row in csv.reader(io.StringIO(out, newline="")) for each in row]
        assert [each for each in cells if each and each[0] in "=+-@\t\r\n\uff1d"] == []
        assert main is cidrs.suggest or any("'@SUM(A1)" in each for each in cells)


def test_files_of_ones_own_are_shown_no_other_way(hostile: Hostile, command: Command) -> None:
    flags = [*hostile.flags, str(hostile.map)]
    for main, argv in (
        (cidrs.check, flags),
        (cidrs.check, [*flags, "-o", "json"]),
        (prices.check, [str(hostile.prices)]),
        (prices.explain, [NAMES[0], NAMES[2]]),
        (topics.diff, [*hostile.flags[:-1], "2"]),
        (topics.list_, hostile.flags),
    ):
        status, out, err = command(main, *argv)
        assert status in (0, 1, 2)
        assert out or err
        assert_harmless(out + err)


def assert_harmless(text: str) -> None:
    unusual = {c for c in text if not (c.isprintable() or c == "\n") or c in "\u034f\u2800\ufe0f"}
    assert unusual == set()


def _documents(out: str) -> list[Any]:
    try:
        return [json.loads(out)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in out.rstrip("\n").split("\n")]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value
