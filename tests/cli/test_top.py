# SPDX-License-Identifier: Apache-2.0
"""Windows as they come in: by tables of what arrives when, and `zonemeter top` as a process over a real broker."""

import asyncio
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from cli import top
from cli.top import shown
from common.kafka.publish import Record
from history.model.filters import Selection
from history.read.live import PATIENCE_MS, SETTLE_MS, LiveWindow, Windows
from history.read.topic_sql import Sieve
from history.text.live import as_dict, as_lines
from lab.kafka.broker import Broker
from prices.file import shipped
from schemas.flow import Flow, Observer
from tests.support.cli.records import publish
from tests.support.history.rows import rows_of
from tests.support.services import DEADLINE_SECONDS, readable
from tests.support.sinks.flows import API, EXTERNAL, START_MS, cloud, encoded, flow, flow_id, pod, window
from tests.support.sinks.topics import Topics

ROOT = Path(__file__).resolve().parents[2]
WINDOW_MS = 10_000
END = START_MS + WINDOW_MS


def windows(begun_ms: int = START_MS) -> Windows:
    return Windows(WINDOW_MS, START_MS, begun_ms, Sieve(Selection()))


def only(namespace: str | None, cluster: str | None) -> Sieve:
    return Sieve(Selection(namespaces=[namespace] if namespace else [], clusters=[cluster] if cluster else []))


def add(to: Windows, flows: list[Flow], now_ms: int = END) -> None:
    to.add(rows_of(flows), 0, now_ms)


def of(node: str, sequence: int = 0) -> list[Flow]:
    return list(window(sequence, 2, node, observer=Observer(node, cloud("a"))))


def test_the_first_window_waits_for_nodes_that_nobody_knows_yet() -> None:
    live = windows()
    add(live, of("node-a1"), END + 100)
    assert live.ready(END + PATIENCE_MS - 1) == []
    (given,) = live.ready(END + PATIENCE_MS)
    assert (given.summary.bytes, given.summary.observers) == (201, {"node-a1"})
    assert given.lag_seconds == 0.1
    assert live.ready(END + PATIENCE_MS) == []


def test_later_windows_are_given_as_soon_as_the_same_nodes_are_in() -> None:
    live = windows()
    add(live, of("node-a1") + of("node-b1"))
    live.ready(END + PATIENCE_MS)
    add(live, of("node-a1", 1))
    assert live.ready(END + WINDOW_MS + SETTLE_MS) == []
    add(live, of("node-b1", 1))
    assert [each.start_ms for each in live.ready(END + WINDOW_MS + SETTLE_MS)] == [END]


def test_windows_come_in_order_and_what_is_late_is_counted_not_shown() -> None:
    live = windows()
    add(live, of("node-a1", 1) + of("node-a1"))
    assert [each.start_ms for each in live.ready(END + 60_000)] == [START_MS, END]
    add(live, of("node-b1") + of("node-a1", 2))
    (given,) = live.ready(END + 60_000)
    assert (given.start_ms, given.late, given.summary.bytes) == (END + WINDOW_MS, 2, 201)
    assert "2 flows came too late" in "\n".join(as_lines(given))


def test_rubbish_is_counted() -> None:
    live = windows()
    add(live, of("node-a1"))
    live.add([], 5, END)
    (given,) = live.ready(END + PATIENCE_MS)
    assert (given.refused, given.summary.bytes) == (5, 201)


def test_a_window_that_was_over_before_we_looked_has_no_lag() -> None:
    live = windows(begun_ms=END + 3_000)
    add(live, of("node-a1"), END + 3_500)
    (given,) = live.ready(END + PATIENCE_MS)
    assert given.lag_seconds is None
    assert "lag -" in "\n".join(as_lines(given))


@pytest.mark.parametrize(
    ("namespace", "cluster", "bytes_"),
    [(None, None, 2_000), ("shop", None, 1_000), ("nothere", None, 0), (None, "lab", 2_000), (None, "other", 0)],
)
def test_filters(namespace: str | None, cluster: str | None, bytes_: int) -> None:
    wanted = only(namespace, cluster)
    flows = [flow(), flow(source=EXTERNAL, destination=EXTERNAL, scope="external")]
    live = Windows(WINDOW_MS, START_MS, START_MS, wanted)
    add(live, flows)
    assert sum(each.summary.bytes for each in live.ready(END + PATIENCE_MS)) == bytes_


def test_json_adds_up() -> None:
    live = windows()
    add(live, [flow(), flow(destination=pod("cart", "c")), flow(destination=API, scope="same_node")])
    (given,) = live.ready(END + PATIENCE_MS)
    shown = as_dict(given)
    assert shown["bytes"] == sum(shown["scopes"].values()) == sum(each["bytes"] for each in shown["zones"]) == 3_000
    assert sum(pair["bytes"] for pair in shown["cross_zone_pairs"]) == shown["scopes"]["cross_zone"] == 2_000


def test_an_empty_window_can_be_shown() -> None:
    assert "flows 0" in as_lines(LiveWindow(START_MS, END))[0]


def test_prices_and_how_many_pairs() -> None:
    live = windows()
    add(live, [flow(destination=pod(f"p{number}", "b"), bytes=10**9) for number in range(9)])
    (given,) = live.ready(END + PATIENCE_MS)
    text = as_lines(given, shipped("aws"), top=7)
    assert len([line for line in text if " -> " in line]) == 7
    assert any("2 more pairs" in line for line in text)
    assert any("at this rate $47,304 a month" in line for line in text), "0.9 GB/s x 730 h at 0.02 $/GB"


class Terminal(io.StringIO):
    """A terminal that notes what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("height", ["8", "50"])
def test_a_window_takes_the_place_of_the_one_before(monkeypatch: pytest.MonkeyPatch, height: str) -> None:
    """Also where the terminal is lower than the table: what has scrolled away cannot be written over."""
    terminal = Terminal()
    for name, value in (("COLUMNS", "80"), ("LINES", height), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    live = windows()
    for sequence in range(3):
        start = START_MS + sequence * WINDOW_MS
        ends = [pod(f"w{number}-with-quite-a-long-name", "b") for number in range(9)]
        add(live, [flow(destination=end, start_ms=start, end_ms=start + WINDOW_MS) for end in ends])
    given = live.ready(END + 3 * WINDOW_MS + PATIENCE_MS)
    assert len(given) == 3
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        with shown("table", as_lines) as show:
            for window in given:
                show(window)
            lines = screen(terminal.getvalue(), int(height))
    assert [line[:22] for line in lines if line.startswith("window ")] == [as_lines(given[-1])[0][:22]]
    assert max(map(len, lines)) <= 80


def screen(written: str, height: int) -> list[str]:
    """Return what a terminal of so many lines shows after that, with what has scrolled away above it."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[0-9;?]*[a-zA-Z]|\r|\n)|([^\x1b\r\n]+)", written):
        if control == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
            column = 0  # the line discipline's
        elif control == "\r":
            column = 0
        elif control.endswith("A"):
            row = max(row - int(control[2:-1] or 1), len(lines) - height, 0)
        elif control.endswith("K"):
            lines[row] = ""
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


def recent_flows(count: int) -> list[Flow]:
    """Flows of the window that `top` would begin with now, and as many of each with which it may until it starts."""
    first = (time.time_ns() // 1_000_000 - PATIENCE_MS) // WINDOW_MS * WINDOW_MS - WINDOW_MS
    last = first + int(DEADLINE_SECONDS * 1000)
    return [
        flow(id=flow_id(sequence, row), start_ms=start, end_ms=start + WINDOW_MS)
        for sequence, start in enumerate(range(first, last, WINDOW_MS))
        for row in range(count)
    ]


def command(topics: Topics, *more: str) -> list[str]:
    return [sys.executable, "-m", "cli", "top", *topics.flags, *more]


def produce_recent(topics: Topics, count: int) -> None:
    produce(topics, recent_flows(count))


def produce(topics: Topics, flows: list[Flow]) -> None:
    topic = topics.settings.topics.enriched
    publish(topics.settings, [Record(topic, 0, b"node-a1", encoded(each), each.end_ms) for each in flows])


def test_once_shows_the_last_window_and_ends_and_what_came_twice_counts_once(topics: Topics) -> None:
    flows = recent_flows(3)
    for _ in range(2):
        produce(topics, flows)
    done = subprocess.run(command(topics, "--once", "-o", "json"), cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    (line,) = done.stdout.splitlines()
    assert orjson.loads(line)["bytes"] == 3_000


def test_once_without_flows_says_so_and_ends_with_1(topics: Topics) -> None:
    done = subprocess.run(
        command(topics, "--once", "--quiet-seconds", "0.5"), cwd=ROOT, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"zonemeter doctor" in done.stderr


def test_a_filter_that_nothing_meets_says_what_there_is(topics: Topics) -> None:
    produce_recent(topics, 3)
    flags = ("--quiet-seconds", "0.5", "-n", "shpo")
    process = subprocess.Popen(command(topics, *flags), cwd=ROOT, stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        # Before it has read the first flow there are none.
        said = next(line for line in process.stderr if "no flows for" not in line)
        process.terminate()
        shown, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, shown) == (0, "")
    assert said == 'zonemeter top: no flow of namespace "shpo" so far; did you mean shop?\n'


@pytest.mark.parametrize(
    ("namespace", "cluster", "said"),
    [
        ("nothere", None, 'no flow of namespace "nothere" so far; there are shop'),
        (None, "other", 'no flow of cluster "other" so far; there are lab'),
        ("shop", None, ""),
        (None, None, ""),
    ],
)
def test_why_nothing_is_shown(namespace: str | None, cluster: str | None, said: str) -> None:
    wanted = only(namespace, cluster)
    assert wanted.why_nothing("so far") == ""
    add(Windows(WINDOW_MS, START_MS, START_MS, wanted), [flow()])
    assert wanted.why_nothing("so far") == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_goes_on_until_it_is_told_to_end(topics: Topics, number: signal.Signals) -> None:
    produce_recent(topics, 1)
    process = subprocess.Popen(command(topics), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert readable(process.stdout.fileno()), "nothing shown"
        first = process.stdout.readline()
        process.send_signal(number)
        _, complaints = process.communicate(timeout=120)
    finally:
        process.kill()
    assert first.startswith(b"window ")
    assert b"\x1b" not in first
    assert (process.returncode, complaints) == (0, b"")


def test_it_says_so_when_kafka_goes_and_still_ends_when_told(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka")
    try:
        asyncio.run(broker.start())
        topics = Topics.make(broker.bootstrap)
        produce_recent(topics, 1)
        process = subprocess.Popen(
            command(topics, "--quiet-seconds", "1"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None and process.stderr is not None
            assert readable(process.stdout.fileno()), "nothing shown"
            broker.kill()
            assert readable(process.stderr.fileno()), "nothing said"
            said = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
        finally:
            process.kill()
    finally:
        broker.kill()
    assert said == b"zonemeter top: no flows for 1 s: zonemeter doctor says what is wrong\n"
    assert process.returncode == 0


def test_it_ends_after_as_long_as_it_may_run_and_when_nobody_reads_it_any_more(topics: Topics) -> None:
    """With no flow in the topic it writes nothing, so that a pipe without a reader does not show by itself."""
    done = subprocess.run(command(topics, "--run-for", "1s"), cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(topics), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_one_that_hangs_in_a_full_pipe_ends_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[int] = []
    monkeypatch.setattr(signal, "alarm", armed.append)

    async def inside() -> None:
        stopping = asyncio.Event()
        top._end_after(0.01, stopping)
        await asyncio.wait_for(stopping.wait(), 60)

    asyncio.run(inside())
    assert armed == [1 + top._STUCK_SECONDS]


def test_on_a_terminal_ctrl_c_ends_it_and_gives_the_cursor_back(topics: Topics) -> None:
    produce_recent(topics, 1)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command(topics))
    shown, deadline = b"", time.monotonic() + 120
    while b"flows 1" not in shown:
        assert time.monotonic() < deadline, shown
        if readable(terminal, 0.5):
            shown += os.read(terminal, 65536)
    os.write(terminal, b"\x03")  # the line discipline makes SIGINT of it
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    shown += os.read(terminal, 65536)
    os.close(terminal)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--kafka-bootstrap", "127.0.0.1:1"], b"127.0.0.1:1"),
        (["--topic-prefix", "nothere."], b"does not exist"),
        (["--window-seconds", "0"], b"window_seconds"),
        (["--prices", "/nonexistent"], b"expected aws, azure, gcp or a file"),
        (["--top", "0"], b"top (--top, ZONEMETER_TOP)"),
        (["-n", ""], b"namespace"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(topics: Topics, more: list[str], says: bytes) -> None:
    done = subprocess.run(command(topics, *more), cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert says in done.stderr
