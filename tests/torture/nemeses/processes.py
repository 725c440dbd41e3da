# SPDX-License-Identifier: Apache-2.0
"""Nemeses of processes: killed, paused beyond the session, told to end; replicas that come and go all the while."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.services import eventually
from tests.torture.world import World

# Longer than the 6 s of the sessions in world.py.
PAUSED_SECONDS = 9.0


def kill(room: str, world: World, times: int) -> None:
    """SIGKILL one of a room's replicas at a random moment and start it again; some while it still recovers."""
    for _ in range(times):
        role = world.rng.choice(world.fleet.roles(room))
        world.nap(0.2, 2.0)
        world.fleet.kill(role)
        world.nap(0.0, 1.0)
        world.fleet.start(role)
        if world.rng.random() < 0.3:
            world.nap(0.5, 3.0)
            world.fleet.kill(role)
            world.fleet.start(role)
        world.recover()


def pause(room: str, world: World, times: int) -> None:
    """SIGSTOP for longer than the session: another takes over, and the one that wakes must do no harm."""
    for _ in range(times):
        role = world.rng.choice(world.fleet.roles(room))
        world.nap()
        with world.fleet.paused(role):
            time.sleep(PAUSED_SECONDS)
        world.recover()


def restart(world: World, times: int) -> None:
    """SIGTERM at a random moment: all of it drains in time and says so."""
    for _ in range(times):
        for room in world.counts:
            role = world.rng.choice(world.fleet.roles(room))
            world.nap()
            assert world.fleet.terminate(role) == {role: 0}
            world.fleet.start(role)
        world.recover()


def rescale(world: World, times: int) -> None:
    """Metrics replicas from two to three and back as docs/operations.md says: all stop, then the new number starts."""
    for number in range(2 * times):
        with world.still():
            world.wait_for_rows()
            eventually(lambda: world.committed("metrics"))
            world.scraped()
            old, new = world.counts["metrics"], (3, 2)[number % 2]
            for role in (f"metrics-{ordinal}" for ordinal in range(new, old)):
                world.retired[role] = world.fleet.running[role].samples()
            assert set(world.fleet.terminate(*world.fleet.roles("metrics")).values()) == {0}
            world.counts["metrics"] = new
            for role in world.replicas("metrics"):
                world.retired.pop(role, None)
            world.fleet.start(*world.replicas("metrics"))
            world.fleet.ready()
        world.recover()


@contextmanager
def rebalancing(world: World, *rooms: str) -> Iterator[list[int]]:
    """Let one more replica of each room come and go while the context lasts; gives how often, in a list of one."""
    stop, done = threading.Event(), [0]

    def churn() -> None:
        while not stop.is_set():
            roles = [f"{room}-{world.counts[room]}" for room in rooms]
            world.fleet.start(*roles)
            world.fleet.ready(*roles)
            stop.wait(2.0)
            assert set(world.fleet.terminate(*roles).values()) == {0}
            stop.wait(1.0)
            done[0] += 1

    thread = threading.Thread(target=churn, name="rebalancing")
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def rebalance(world: World, times: int) -> None:
    """Kill enrichers and flow logs while the group is reassigned all the while."""
    with rebalancing(world, "enricher", "flowlog") as done:
        for _ in range(times):
            for room in ("enricher", "flowlog"):
                role = f"{room}-0"
                world.nap()
                world.fleet.kill(role)
                world.fleet.start(role)
            world.recover()
    assert done[0] > 0
