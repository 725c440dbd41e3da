# SPDX-License-Identifier: Apache-2.0
"""Nemesis of the object store that the flow log writes to: it throttles, fails, cuts, is late, lists late, refuses."""

from tests.support.servers.s3_faults import Act, cut, lagging, late, now_and_then, refuse, unanswered
from tests.torture.world import World

_BAD_DAY = now_and_then(0.5, refuse(503, "SlowDown"), refuse(500, "InternalError"), cut, unanswered, late(1.0))
# What is done, to which methods and paths.
_FAULTS: tuple[tuple[Act, str, str], ...] = (
    (refuse(503, "SlowDown"), ".*", ".*"),
    (unanswered, "PUT", r"_manifests/.*\.json"),
    (_BAD_DAY, ".*", ".*"),
    (refuse(400, "ExpiredToken"), ".*", ".*"),
    (late(3.0), "PUT", ".*"),
    (lagging(r"\d{11}[13579]\.json"), "GET", "list-type"),
    (cut, ".*", ".*"),
)


def trouble(world: World, times: int) -> None:
    """Let it misbehave in one way after the other; now and then a flow log is killed meanwhile."""
    store = world.kafka.store
    assert store is not None
    for number in range(times):
        act, method, path = _FAULTS[number % len(_FAULTS)]
        world.nap()
        store.add(act, method, path)
        world.nap(2.0, 5.0)
        if world.rng.random() < 0.5:
            role = world.rng.choice(world.fleet.roles("flowlog"))
            world.fleet.kill(role)
            world.fleet.start(role)
            world.nap(0.0, 4.0)
        store.heal()
        world.recover()
