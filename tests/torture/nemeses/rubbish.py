# SPDX-License-Identifier: Apache-2.0
"""Nemeses of content: rubbish of every kind in the raw topic, repeats, gaps, late windows, clocks that step."""

import dataclasses
from collections import Counter
from typing import Any

import orjson
from msgspec.structs import replace

from schemas.ledger import encode_ledger
from schemas.raw import COLUMNS
from tests.support.batches import BOMBS, SMALL_BOMB, bomb, publish
from tests.torture.content import NODES, WINDOW_MS, Window
from tests.torture.nemeses.attacks import unharmed
from tests.torture.world import PARTITIONS, World

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
        "10 MiB": (b'{"schema_version":1,"pad":"' + b"x" * (10 * _MEBIBYTE) + b'"}', "batch_too_large"),
        "2 MiB": (b'{"schema_version":1,"pad":"' + b"x" * (2 * _MEBIBYTE) + b'"}', "too_large"),
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
    world.dead_letters = dict(Counter(world.dead_letters) + sent)


def bombs(world: World, times: int) -> None:
    """Batches that unpack to more than anybody reads, in one partition, while windows come in all of them."""
    raw, partition = world.settings.topics.raw, world.rng.randrange(PARTITIONS)
    for _ in range(times):
        codec = world.rng.choice(sorted(BOMBS))
        publish(world.direct, raw, partition, bomb(codec, min(BOMBS[codec], SMALL_BOMB), records=16))
        world.dead_letters["batch_too_large"] = world.dead_letters.get("batch_too_large", 0) + 1
        world.nap()
        unharmed(world, partition)
        world.recover()


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
        before = world.content.boot(node)
        for number in range(2 * times):
            world.content.boots[node] = f"{number % 2:012x}"
            world.feeder.feed(node)
        world.content.boots[node] = before
    world.interleaved.add(node)
    world.recover()


def made_up(world: World, times: int) -> None:
    """Numbers, times and ledger entries that somebody makes up in a node's name, with the collectors' rights.

    Of a node whose clock was never ahead: windows of a time that its boot has been seen in, as all here are after a
    clock of tomorrow, are put aside once somebody has made a number up (docs/security.md).
    """
    for number in range(times):
        with world.still():
            node = world.rng.choice([node for node in NODES if world.content.origin(node) not in world.ahead])
            true = world.feeder.feed(node)
            for claimed in IMPLAUSIBLE:
                world.feeder.raw(claiming(true.chunks[0], claimed), node.encode(), world.content.partition(node))
                world.dead_letters["implausible"] = world.dead_letters.get("implausible", 0) + 1
            world.feeder.forge(renumbered(true, true.sequence + 500 + number))
            world.feeder.contradict(true)
            world.contradicted.add(true.ledger.id)
            # The true ones go on, below the number that was made up.
            world.feeder.feed(node)
            world.feeder.feed(node)
        world.recover()
        with world.still():
            world.content.boots[node] = f"{world.rng.getrandbits(40):012x}"


# What no node can have come to; a window's own fields but for these.
IMPLAUSIBLE: list[dict[str, int]] = [
    {"sequence": 2**53 - 1},
    {"generation": 2**53 - 1},
    {"generation": 2, "sequence": 2**50},
    {"start_ms": 0, "end_ms": 1},
    {"end_ms": 2**53 - 1},
]


def claiming(chunk: bytes, fields: dict[str, Any]) -> bytes:
    """Return a chunk that claims something else."""
    return orjson.dumps(orjson.loads(chunk) | fields)


def renumbered(window: Window, sequence: int) -> Window:
    """Return a window under another number, of the same time."""
    old, new = f"/{window.sequence}", f"/{sequence}"

    def renamed(id_: str) -> str:
        head, _, tail = id_.partition(f"/1{old}")
        return f"{head}/1{new}{tail}"

    return dataclasses.replace(
        window,
        sequence=sequence,
        chunks=[claiming(chunk, {"sequence": sequence}) for chunk in window.chunks],
        ledger=replace(window.ledger, id=renamed(window.ledger.id)),
        flows={renamed(id_): flow for id_, flow in window.flows.items()},
    )


def names(world: World, times: int) -> None:
    """Nodes that nobody knows, each of an earlier time than the one before, and clusters without end in the ledger."""
    empty: dict[str, Any] = {name: [] for name in COLUMNS} | {"addresses": [], "chunk": 0, "chunks": 1}
    for number in range(times):
        with world.still():
            node = world.rng.choice(NODES)
            like = world.feeder.feed(node)
            partition = world.content.partition(node)
            raw: list[tuple[bytes, bytes]] = []
            ledger: list[tuple[bytes, bytes]] = []
            for back in range(60):
                start = world.content.start_ms - (48 + back) * 360 * WINDOW_MS
                ghost, nothing = f"ghost-{number}-{back}", {"bytes": 0, "packets": 0}
                fields = empty | {"node": ghost, "start_ms": start, "end_ms": start + WINDOW_MS}
                fields |= {"ledger": {"hook": nothing, "map": nothing}}
                raw.append((ghost.encode(), claiming(like.chunks[0], fields)))
            for cluster in range(200):
                start = world.content.start_ms - 48 * 360 * WINDOW_MS
                id_ = like.ledger.id.replace("/", f"-{number}-{cluster}/", 1)
                entry = replace(like.ledger, id=id_, start_ms=start, end_ms=start + WINDOW_MS)
                ledger.append((entry.key, encode_ledger(entry)))
            world.feeder.append(world.settings.topics.raw, partition, raw)
            world.feeder.append(world.settings.topics.ledger, partition, ledger)
        world.recover()


def clocks(world: World, times: int) -> None:
    """One node's clock steps back and ahead, also beyond what the broker takes as a record's time."""
    hours = (-5, 40, -0.01, 3, 31.5, 200)
    for number in range(times):
        with world.still():
            node = NODES[number % 2]
            world.content.shift_ms[node] = int(hours[number % len(hours)] * 360 * WINDOW_MS)
            if world.content.shift_ms[node] > 0:
                world.ahead.add(world.content.origin(node))
        world.recover()
    with world.still():
        world.content.shift_ms.clear()
    world.recover()
    assert times < 2 or world.feeder.untimed, "the broker refused no record's time"
