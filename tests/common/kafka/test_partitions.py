# SPDX-License-Identifier: Apache-2.0
"""What is said of a partition that fails: in /readyz, in a metric, since when, and until when."""

import re

import pytest
from aiokafka import TopicPartition
from prometheus_client import Gauge

from common.kafka.partitions import STALLED_SECONDS, Partitions
from common.service.running import Service

ONE, TWO, THREE = (TopicPartition("flows", number) for number in (1, 2, 3))


class Watched:
    """Partitions whose clock stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.service = Service("test")
        self.service.health.ready("start")
        lag = Gauge("lag", "Not taken yet.", ["partition"], registry=self.service.registry)
        self.partitions = Partitions(self.service, lag, lambda: self.now)
        self.partitions.keep([ONE, TWO, THREE])

    @property
    def said(self) -> dict[str, str]:
        return self.service.health.reasons

    def sample(self, name: str, **labels: str) -> float | None:
        return self.service.registry.get_sample_value(name, labels)

    def failing(self, where: TopicPartition) -> float | None:
        return self.sample("zonemeter_partition_failing", topic=where.topic, partition=str(where.partition))


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_it_is_said_which_why_since_when_and_how_far_behind(watched: Watched) -> None:
    watched.partitions.behind(TWO, 1234)
    watched.partitions.fails(TWO, "KafkaStorageError: the disk")
    line = watched.said["flows partition 2"]
    assert re.fullmatch(
        r"failing since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, retrying while the other partitions go on: "
        r"KafkaStorageError: the disk \(1,234 records behind\)",
        line,
    )
    assert [watched.failing(where) for where in (ONE, TWO, THREE)] == [0, 1, 0]
    assert watched.sample("lag", partition="2") == 1234
    watched.partitions.works(TWO)
    assert watched.said == {}
    assert watched.failing(TWO) == 0


def test_of_two_reasons_one_is_left(watched: Watched) -> None:
    watched.partitions.fails(TWO, "no topic", "ledger entries")
    watched.partitions.fails(TWO, "no leader", "dead letters")
    assert watched.said["flows partition 2"].endswith(": no leader")
    watched.partitions.works(TWO, "dead letters")
    assert watched.said["flows partition 2"].endswith(": no topic")
    assert watched.failing(TWO) == 1
    watched.partitions.works(TWO, "ledger entries")
    assert (watched.said, watched.failing(TWO)) == ({}, 0)


def test_a_lag_that_changes_is_shown_and_not_logged(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for behind in range(5):
        watched.partitions.fails(TWO, "KafkaStorageError: the disk")
        watched.partitions.behind(TWO, behind)
    assert watched.said["flows partition 2"].endswith("(4 records behind)")
    assert len(caplog.messages) == 1


def test_since_is_when_it_began_whatever_came_after(watched: Watched) -> None:
    watched.partitions.fails(TWO, "first")
    since = watched.said["flows partition 2"][:40]
    watched.partitions.fails(TWO, "no end", "reading")
    watched.partitions.works(TWO)
    assert watched.said["flows partition 2"].startswith(since)
    assert watched.said["flows partition 2"].endswith("no end")
    assert watched.failing(TWO) == 1
    watched.partitions.works(TWO, "reading")
    assert watched.said == {}


def test_one_that_stands_still_while_others_move_fails(watched: Watched) -> None:
    for step in range(5):
        watched.now = step * STALLED_SECONDS / 4
        watched.partitions.note(ONE, step, 100)
        watched.partitions.note(TWO, 7, 9)
        watched.partitions.note(THREE, 5, 5)
        assert (watched.failing(TWO) == 1) is (step == 4)
    assert watched.said.keys() == {"flows partition 2"}
    assert "from offset 7 on (2 records behind)" in watched.said["flows partition 2"]
    watched.partitions.note(TWO, 8, 9)
    assert watched.said == {}


def test_where_none_moves_it_is_no_partition_that_fails(watched: Watched) -> None:
    for step in range(9):
        watched.now = step * STALLED_SECONDS / 4
        watched.partitions.note(ONE, 1, 100)
        watched.partitions.note(TWO, 7, 9)
        watched.partitions.note(THREE, 5, 5)
    assert watched.said == {}


def test_what_is_somebody_elses_now_is_forgotten(watched: Watched) -> None:
    watched.partitions.note(TWO, 7, 9)
    watched.partitions.fails(TWO, "no leader")
    watched.partitions.fails(ONE, "no leader")
    watched.partitions.keep([ONE, THREE])
    assert watched.said.keys() == {"flows partition 1"}
    assert watched.failing(TWO) is None
    assert watched.sample("lag", partition="2") is None
    assert not watched.partitions.is_failing(TWO)
    assert watched.partitions.is_failing(ONE)
