# SPDX-License-Identifier: Apache-2.0
"""Batches that unpack to more than anybody reads, before the commands that read topics: one line, and on they go."""

from collections.abc import Callable

import pytest

from history import dead_letters
from history.audit import command as audit
from history.replay import command as replay
from history.report import command as report
from lab.kafka.broker import Broker
from tests.history.conftest import Command
from tests.support.batches import SMALL_BOMB, bomb, publish
from tests.support.sinks.flows import encoded, window
from tests.support.sinks.topics import Topics


@pytest.fixture(scope="module")
def topics(broker: Broker) -> Topics:
    """Topics with a bomb in each, and flows around the one of the enriched."""
    made = Topics.make(broker.bootstrap)
    made.produce({0: map(encoded, window(1, 3))})
    for topic in made.settings.topics.all:
        publish(broker.bootstrap, topic, 0, bomb("zstd", SMALL_BOMB, records=16))
    made.produce({0: map(encoded, window(2, 3))})
    return made


@pytest.mark.parametrize(
    ("main", "argv", "status", "says"),
    [
        pytest.param(replay.main, ["--since", "7000d"], 0, "batch_too_large 1", id="replay"),
        pytest.param(replay.main, ["--since", "7000d", "--from-raw"], 2, "holds no node", id="replay from raw"),
        pytest.param(report.main, ["--since", "7000d"], 0, "1 record not to be decoded", id="report"),
        pytest.param(report.main, ["--since", "5m"], 1, "1 record could not be decoded", id="report of nothing"),
        pytest.param(audit.main, ["--since", "7000d"], 1, "batch_too_large: offsets 0 to 15", id="audit"),
        pytest.param(audit.main, ["--since", "7000d", "--deep"], 1, "batch_too_large: offsets 3 to 18", id="deep"),
        pytest.param(dead_letters.main, ["--since", "7000d"], 0, "offsets 0 to 15", id="dead letters"),
        pytest.param(dead_letters.main, ["--show", "3"], 2, "batch_too_large: offsets 3 to 15", id="one letter"),
    ],
)
def test_a_command_says_so_and_goes_on(
    topics: Topics, command: Command, main: Callable[[list[str]], int], argv: list[str], status: int, says: str
) -> None:
    flags = topics.flags if main is not dead_letters.main else topics.flags[:4]
    ended, out, err = command(main, *flags, *argv)
    assert says in " ".join((out + err).split())
    assert ended == status
