# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, a reader that has enough, and Kafka going away, in the middle of a replay as a process of its own."""

import asyncio
import contextlib
import gc
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import Refusal
from common.settings import KafkaSettings
from history.read.batch import SCHEMA, FlowBatch
from history.read.topic import read_topic
from history.replay.files import ParquetWriter
from history.replay.topic import TopicWriter
from lab.kafka.broker import Broker
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Intake, Lane
from tests.support.history.lived import Lived
from tests.support.services import DEADLINE_SECONDS, ROOT, eventually
from tests.support.sinks.flows import END_MS, StoredRecord, encoded, window
from tests.support.sinks.topics import Topics


def start(*argv: str, stdout: int | None = subprocess.PIPE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", *argv]
    return subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE)


def interrupt(command: "subprocess.Popen[bytes]", has_begun: Callable[[], object]) -> tuple[bytes, bytes]:
    """Tell a command to end once it has begun, and return what it said.

    It stands still while that is looked for: on a busy machine it would be done before it was told.
    """

    def begun() -> object:
        command.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        command.send_signal(signal.SIGSTOP)
        return has_begun()

    eventually(begun)
    command.send_signal(signal.SIGINT)
    command.send_signal(signal.SIGCONT)
    return command.communicate(timeout=120)


@pytest.fixture(scope="module")
def long(broker: Broker) -> Topics:
    """A topic that takes seconds to read."""
    topics = Topics.make(broker.bootstrap)
    for number in range(6):
        topics.produce({number % 3: [flow for seq in range(5) for flow in window(number * 5 + seq, 5_000)]})
    return topics


SPAN = ["--from", "2026-11-22T00:00:00Z", "--to", "2026-11-24T00:00:00Z"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_ctrl_c_leaves_no_half_file(long: Topics, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"flows.{form}"
    replay = start("replay", *long.flags, *SPAN, "-o", form, "--file", str(file))
    out, err = interrupt(replay, lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
    assert replay.returncode == 130
    assert out == b""
    assert err.decode() == f"zonemeter replay: interrupted: {file} was not written\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_parquet_file_is_dropped_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with (tmp_path / "flows.parquet").open("wb") as stream:
        writer = ParquetWriter(stream, SCHEMA)
    del writer
    gc.collect()
    assert complaints == []


def test_ctrl_c_says_what_is_in_a_topic_and_again_completes_it(long: Topics) -> None:
    replay = start("replay", *long.flags, *SPAN, "--to-topic", f"again.{os.getpid()}")
    topic = f"again.{os.getpid()}"
    _, err = interrupt(replay, lambda: _records(long, topic))
    assert replay.returncode == 130
    [line] = err.decode().splitlines()
    assert f"flows are in topic {topic}; readers know repeats by their ids" in line
    again = start("replay", *long.flags, *SPAN, "--to-topic", topic)
    assert again.communicate(timeout=120)[1] == f"zonemeter replay: 150,000 flows to topic {topic}\n".encode()
    assert _records(long, topic) >= 150_000


def test_ctrl_c_in_a_report(long: Topics) -> None:
    report = start("report", *long.flags, *SPAN)
    out, err = interrupt(report, lambda: _connected(report.pid))
    assert (report.returncode, out, err) == (130, b"", b"zonemeter report: interrupted\n")


def test_a_reader_that_has_enough_is_no_fault(long: Topics) -> None:
    replay = start("replay", *long.flags, *SPAN, "-o", "jsonl")
    assert replay.stdout is not None
    assert replay.stdout.readline().startswith(b'{"id":')
    replay.stdout.close()
    assert replay.wait(120) == 0
    assert replay.stderr is not None
    assert replay.stderr.read() == b""
    replay.stderr.close()


def test_ctrl_c_where_nobody_reads_the_pipe(long: Topics) -> None:
    replay = start("replay", *long.flags, *SPAN, "-o", "jsonl")
    assert replay.stdout is not None
    assert replay.stdout.readline()
    wchan = Path(f"/proc/{replay.pid}/wchan")
    eventually(lambda: "pipe" in wchan.read_text())
    replay.send_signal(signal.SIGINT)
    out, err = replay.communicate(timeout=120)
    assert replay.returncode == 130
    assert err == b"zonemeter replay: interrupted\n"
    assert out.count(b"\n") < 150_000


def test_a_pipe_takes_parquet_and_csv(history: Lived, tmp_path: Path) -> None:
    for form, begin in (("parquet", b"PAR1"), ("csv", b'"id","window_start"')):
        target = tmp_path / form
        with target.open("wb") as stream:
            replay = start("replay", *history.flags, *history.span, "-o", form, stdout=stream.fileno())
            _, err = replay.communicate(timeout=120)
        assert (replay.returncode, err) == (0, b"")
        assert target.read_bytes().startswith(begin)


def test_kafka_that_falls_silent_ends_it_with_one_line(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka")
    asyncio.run(broker.start())
    try:
        topics = Topics.make(broker.bootstrap)
        topics.produce({0: [flow for seq in range(8) for flow in window(seq, 5_000)]})
        flags = [*topics.flags, *SPAN, "--kafka-deadline-seconds", "3", "-o", "jsonl"]
        file = tmp_path / "flows.jsonl"
        replay = start("replay", *flags, "--file", str(file))
        eventually(lambda: any(p.suffix == ".partial" and p.stat().st_size for p in tmp_path.iterdir()))
        broker.kill()
        _, err = replay.communicate(timeout=120)
    finally:
        broker.kill()
    assert replay.returncode in (0, 2), "0 where all had been fetched already"
    assert len(err.decode().splitlines()) == 1
    assert file.exists() == (replay.returncode == 0)


def test_kafka_that_goes_away_under_a_replay_to_a_topic_ends_it(tmp_path: Path) -> None:
    records = [StoredRecord(offset, encoded(each)) for offset, each in enumerate(window(1, 10))]
    batch = FlowBatch(Intake[FlatEnd](flatten).take(Lane(0), records, END_MS).rows)

    async def write() -> None:
        broker = Broker(tmp_path / "kafka")
        await broker.start()
        settings = KafkaSettings(kafka_bootstrap=broker.bootstrap, kafka_deadline_seconds=DEADLINE_SECONDS)
        try:
            async with contextlib.aclosing(await TopicWriter.open(settings, "again")) as writer:
                await writer.write(batch)
                broker.kill()
                writer._deadline_seconds = 3.0
                with pytest.raises(Refusal, match=r"topic again: .*; 10 flows are there; run it again"):
                    await writer.write(batch)
        finally:
            broker.kill()

    asyncio.run(write())


def _records(topics: Topics, topic: str) -> int:
    async def count() -> int:
        try:
            return sum([len(batch) async for batch in read_topic(topics.settings, topic)])
        except Refusal:
            return 0

    return asyncio.run(count())


def _connected(pid: int) -> bool:
    """Return whether a process has a connection open."""
    held = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held += str(each.readlink()).startswith("socket:")
    # Two are the event loop's own.
    return held > 2


def test_a_progress_bar_is_for_terminals_only(history: Lived) -> None:
    flags = [*history.flags, *history.span, "-o", "jsonl"]
    quiet = start("replay", *flags)
    out, err = quiet.communicate(timeout=120)
    assert (quiet.returncode, err) == (0, b"")
    assert len(out.splitlines()) == len(history.flows)
    command = [sys.executable, "-m", "cli", "replay", *flags]
    ours, theirs = pty.openpty()
    try:
        seen = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
        )
        bar = os.read(ours, 100_000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert seen.returncode == 0
    assert sorted(seen.stdout.splitlines()) == sorted(out.splitlines()), "partitions come in any order"
    assert b"reading" in bar
