# SPDX-License-Identifier: Apache-2.0
"""The short form of `make torture`: one pipeline, many faults one after the other, one check over all of it.

Always in the same order, so that a failure is due to the change that is tested. `make torture` looks for new orders.
"""

import os
from functools import partial
from pathlib import Path

import pytest

from lab.kafka.broker import Broker
from tests.torture.checker import check
from tests.torture.kafka import Kafka
from tests.torture.nemeses import processes, rubbish
from tests.torture.scenario import Act
from tests.torture.world import World

pytestmark = pytest.mark.timeout(600)

SEED = 2956356438


def test_everything_at_once_and_nothing_is_lost_or_doubled(broker: Broker, tmp_path: Path) -> None:
    seed = int(os.environ.get("TORTURE_SEED", SEED))
    world = World(tmp_path / "world", Kafka(broker.bootstrap, broker.bootstrap, [broker]), seed)
    try:
        world.open()
        acts: list[tuple[Act, int]] = [(partial(processes.kill, room), 1) for room in world.counts]
        acts += [(rubbish.rubbish, 1), (rubbish.repeats, 1), (rubbish.gaps, 1), (rubbish.clocks, 2)]
        acts += [(rubbish.two_boots, 1), (rubbish.made_up, 1), (rubbish.names, 1)]
        world.rng.shuffle(acts)
        for act, times in acts:
            act(world, times)
        assert check(world).flows > 1000
    finally:
        world.close()
