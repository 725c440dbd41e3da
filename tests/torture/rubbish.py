# SPDX-License-Identifier: Apache-2.0
"""Nemeses of content: rubbish of every kind in the raw topic, repeats, gaps, late windows, clocks that step."""

from collections import Counter
from typing import Any

import orjson

from tests.torture.content import NODES, WINDOW_MS
from tests.torture.world import World

_MEBIBYTE = 1024 * 1024


def spoilt(chunk: bytes) -> dict[str, tuple[bytes | None, str]]:
    """Return what can be wrong with a chunk, by name: the value, and why it is refused."""
    good: dict[str, Any] = orjson.loads(chunk)
    rows = len(good["src"])

    def but(**fields: Any) -> bytes:
        return orjson.dumps(good | fields)

    return {
        "not JSON": (b"\xff\x00rubbish", "not_json"),
        "no value": (None, "not_json"),
        "cut short": (chunk[:-20], "not_json"),
        "deeply nested": (b'{"pad":' + b"[" * 100_000, "not_json"),
        "a list": (b"[]", "schema_mismatch"),
        "wrong type": (but(bytes=["many"] * rows), "schema_mismatch"),
        "a field missing": (orjson.dumps({k: v for k, v in good.items() if k != "node"}), "schema_mismatch"),
        "negative": (but(bytes=[-1] * rows), "schema_mismatch"),
        "huge": (but(bytes=[2**60] * rows), "schema_mismatch"),
        "huge together": (but(bytes=[2**52 + 1] * rows), "inconsistent"),
        "columns of different length": (but(packets=[1] * (rows + 1)), "inconsistent"),
        "address out of range": (but(src=[10**6] * rows), "inconsistent"),
        "ends before it begins": (but(end_ms=good["start_ms"]), "inconsistent"),
        "another cluster": (but(cluster="other"), "inconsistent"),
        "another version": (but(schema_version=2), "unsupported_version"),
        "10 MiB": (b'{"schema_version":1,"pad":"' + b"x" * (10 * _MEBIBYTE) + b'"}', "too_large"),
    }


def rubbish(world: World, times: int) -> None:
    """Mix every kind of rubbish into the stream of every partition, between good windows."""
    world.raise_message_limit(world.settings.topics.raw, 12 * _MEBIBYTE)
    sent: Counter[str] = Counter()
    for _ in range(times):
        node = world.rng.choice(NODES)
        chunk = world.content.window(node, 0, rows=5).chunks[0]
        kinds = list(spoilt(chunk).values())
        world.rng.shuffle(kinds)
        for value, reason in kinds:
            world.feeder.raw(value, node.encode(), world.content.partition(node))
            sent[reason] += 1
        world.feeder.raw(chunk, b"somebody-else", world.content.partition(node))
        sent["inconsistent"] += 1
        world.recover()
    world.dead_letters = {reason: world.dead_letters.get(reason, 0) + n for reason, n in sent.items()}


def repeats(world: World, times: int) -> None:
    """Windows published twice or thrice, some of them after the enricher has forgotten the first."""
    for _ in range(times):
        with world.still():
            node = world.rng.choice(NODES)
            before = world.feeder.feed(node, times=world.rng.choice((2, 3)))
            if world.rng.random() < 0.7:
                role = world.rng.choice(world.fleet.roles("enricher"))
                world.settle()
                world.fleet.kill(role)
                world.fleet.start(role)
                world.fleet.ready(role)
            world.feeder.publish(before, maybe_repeat=True)
        world.recover()


def late(world: World, times: int) -> None:
    """A window behind a later one of its node, as from a spool that was away for a while: in no sink, and named."""
    for _ in range(times):
        with world.still():
            node = world.rng.choice(NODES)
            held = world.feeder.number(node)
            world.feeder.feed(node)
            if world.rng.random() < 0.5:  # the enricher knows no more what it has seen
                role = world.rng.choice(world.fleet.roles("enricher"))
                world.settle()
                world.fleet.kill(role)
                world.fleet.start(role)
                world.fleet.ready(role)
            world.lost |= {id_.rpartition("/")[0] for id_ in held.flows}
            world.feeder.publish(held, maybe_repeat=True)
        world.recover()


def gaps(world: World, times: int) -> None:
    """Numbers left out, as by a node that died; and a new boot of it."""
    for _ in range(times):
        with world.still():
            node = world.rng.choice(NODES)
            world.feeder.skip(node, world.rng.randrange(1, 5))
            if world.rng.random() < 0.5:
                world.content.boots[node] = f"{world.rng.getrandbits(40):012x}"
        world.recover()


def two_boots(world: World, times: int) -> None:
    """Two boots of one node interleaved: a clone, a forger; both count, by their own names."""
    node = world.rng.choice(NODES)
    with world.still():
        for number in range(2 * times):
            world.content.boots[node] = f"{number % 2:012x}"
            world.feeder.feed(node)
        world.content.boots.pop(node)
    world.interleaved.add(node)
    world.recover()


def clocks(world: World, times: int) -> None:
    """One node's clock steps back and ahead, also beyond what the broker takes as a record's time."""
    hours = (-5, 40, -0.01, 3, 31.5, 200)
    for number in range(times):
        with world.still():
            node = NODES[number % 2]
            world.content.shift_ms[node] = int(hours[number % len(hours)] * 360 * WINDOW_MS)
        world.recover()
    with world.still():
        world.content.shift_ms.clear()
    world.recover()
    assert times < 2 or world.feeder.untimed, "the broker refused no record's time"
