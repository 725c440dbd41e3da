# SPDX-License-Identifier: Apache-2.0
"""A partition without a leader, before sinks and audit: the others go on, it is said, and it comes back by itself."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.services import ServiceProcess, eventually, while_running
from tests.support.sinks.flows import encoded, window
from tests.support.sinks.topics import Topics

FLAGS = ["--kafka-deadline-seconds", "5"]


def service(room: str, topic: str, topics: Topics, directory: Path, *flags: str, partition: int = 1) -> ServiceProcess:
    """A service to which that partition of a topic has no leader while `directory`/away is there."""
    module = ["tests.support.leaderless", f"{topic}:{partition}", str(directory / "away"), "run", room]
    return ServiceProcess(module, [*topics.flags, *FLAGS, *flags], directory / "log")


def said(running: ServiceProcess, topic: str) -> str:
    """Return what /readyz says of partition 1."""
    return running.get("/readyz")[1].partition(f"{topic} partition 1: ")[2]


def failing(running: ServiceProcess, topic: str) -> dict[str, float]:
    """Return what the metric says, by partition."""
    found = running.samples().items()
    return {each[0]: n for (name, each), n in found if name == "zonemeter_partition_failing" and each[1] == topic}


@pytest.mark.parametrize("room", ["metrics", "flowlog"])
def test_a_sink_takes_the_others_and_later_that(topics: Topics, tmp_path: Path, room: str) -> None:
    topic, taken = topics.settings.topics.enriched, ("zonemeter_flows_taken_total", ())
    topics.produce({0: map(encoded, window(1, 3)), 1: map(encoded, window(1, 3, "node-b1"))})
    where = {"metrics": ["--state-dir", str(tmp_path / "state")], "flowlog": ["--output", str(tmp_path / "out")]}
    (tmp_path / "away").touch()
    with while_running(service(room, topic, topics, tmp_path, *where[room])) as sink:
        eventually(lambda: sink.samples().get(taken) == 3)
        eventually(lambda: said(sink, topic))
        assert said(sink, topic).startswith("failing since 20")
        topics.produce({0: map(encoded, window(2, 3)), 2: map(encoded, window(1, 3, "node-c1"))})
        eventually(lambda: sink.samples().get(taken) == 9)
        assert failing(sink, topic) == {"0": 0, "1": 1, "2": 0}
        (tmp_path / "away").unlink()
        eventually(lambda: sink.samples().get(taken) == 12)
        eventually(sink.ready)
        eventually(lambda: failing(sink, topic)["1"] == 0)
        assert sink.terminate() == 0
    assert "; retrying" not in (tmp_path / "log").read_text(), "no consumer was started again"


@pytest.mark.parametrize(("room", "killed"), [("metrics", True), ("flowlog", False)])
def test_a_ledger_partition_holds_up_only_its_own(topics: Topics, tmp_path: Path, room: str, killed: bool) -> None:
    names, taken = topics.settings.topics, ("zonemeter_flows_taken_total", ())
    topics.produce({0: map(encoded, window(1, 3)), 1: map(encoded, window(1, 3, "node-b1"))})
    where = {
        "metrics": ["--state-dir", str(tmp_path / "state"), "--checkpoint-seconds", "0.3"],
        "flowlog": ["--output", str(tmp_path / "out"), "--cut-seconds", "0.3", "--group-instance-id", "one"],
    }
    (tmp_path / "away").touch()
    with ExitStack() as services:
        sink = services.enter_context(while_running(service(room, names.ledger, topics, tmp_path, *where[room])))
        line = eventually(lambda: said(sink, names.enriched))
        assert "its ledger entries are not taken" in line
        topics.produce({0: map(encoded, window(2, 3)), 1: map(encoded, window(2, 3, "node-b1"))})
        eventually(lambda: sink.samples().get(taken) == 9)
        eventually(lambda: in_ledger(topics, room) == {0: 6})
        eventually(lambda: failing(sink, names.enriched) == {"0": 0, "1": 1, "2": 0})
        if killed:
            sink.kill()
            (tmp_path / "away").unlink()
            sink = services.enter_context(while_running(service(room, names.ledger, topics, tmp_path, *where[room])))
        else:
            (tmp_path / "away").unlink()
        eventually(lambda: in_ledger(topics, room) == {0: 6, 1: 6})
        eventually(sink.ready)
        assert sink.terminate() == 0


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("room", ["metrics", "flowlog"])
def test_dead_letters_hold_up_only_their_own_partition(topics: Topics, tmp_path: Path, room: str, killed: bool) -> None:
    names, taken = topics.settings.topics, ("zonemeter_flows_taken_total", ())
    one, two = (list(map(encoded, window(number, 3, "node-b1"))) for number in (1, 2))
    topics.produce({0: map(encoded, window(1, 3)), 1: [*one[:1], b"rubbish", *one[1:]]})
    where = {
        "metrics": ["--state-dir", str(tmp_path / "state"), "--checkpoint-seconds", "0.3"],
        "flowlog": ["--output", str(tmp_path / "out"), "--cut-seconds", "0.3", "--group-instance-id", "one"],
    }

    def sink() -> ServiceProcess:
        return service(room, names.dead_letter, topics, tmp_path, *where[room], partition=0)

    (tmp_path / "away").touch()
    with ExitStack() as services:
        running = services.enter_context(while_running(sink()))
        line = eventually(lambda: said(running, names.enriched))
        assert "its dead letters are not taken" in line
        topics.produce({0: map(encoded, window(2, 3)), 1: [b"{}", *two], 2: [b"rubbish"]})
        eventually(lambda: running.samples().get(taken) == 9)
        # What was taken of it is in the ledger; what was refused is not, before it is a dead letter.
        eventually(lambda: in_ledger(topics, room) == {0: 6, 1: 3})
        assert lost(topics, room) == {}
        eventually(lambda: failing(running, names.enriched) == {"0": 0, "1": 1, "2": 1})
        if killed:
            running.kill()
            (tmp_path / "away").unlink()
            running = services.enter_context(while_running(sink()))
        else:
            (tmp_path / "away").unlink()
        eventually(lambda: in_ledger(topics, room) == {0: 6, 1: 6})
        eventually(lambda: lost(topics, room) == {"not_json": 2, "schema_mismatch": 1})
        eventually(running.ready)
        assert running.terminate() == 0
    assert {(each.partition, each.offset) for each in topics.dead_letters()} == {(1, 1), (1, 4), (2, 0)}
    assert in_ledger(topics, room) == {0: 6, 1: 6}
    assert lost(topics, room) == {"not_json": 2, "schema_mismatch": 1}


def lost(topics: Topics, room: str) -> dict[str, int]:
    """Return how many records a sink's entries say were refused, by reason."""
    rows: Counter[str] = Counter()
    for entry in topics.ledger(room).values():
        rows.update({reason: amount.rows for reason, amount in entry.lost.items()})
    return dict(rows)


def in_ledger(topics: Topics, room: str) -> dict[int, int]:
    """Return how many rows a sink's entries say were given out, by partition; what is read again is put aside."""
    rows: Counter[int] = Counter()
    for entry in topics.ledger(room).values():
        rows[entry.partition] += entry.given.rows
    return dict(+rows)


def test_the_audit_reads_the_others_and_later_that(topics: Topics, tmp_path: Path) -> None:
    topic = topics.settings.topics.ledger
    (tmp_path / "away").touch()
    with while_running(service("audit", topic, topics, tmp_path, "--check-seconds", "0.2")) as audit:
        line = eventually(lambda: said(audit, topic))
        assert line.startswith("failing since 20")
        eventually(lambda: audit.get("/readyz")[1].count("\n") == 1)  # it has caught up with the others
        assert failing(audit, topic) == {"0": 0, "1": 1, "2": 0}
        (tmp_path / "away").unlink()
        eventually(audit.ready)
        eventually(lambda: failing(audit, topic)["1"] == 0)
        assert audit.terminate() == 0
