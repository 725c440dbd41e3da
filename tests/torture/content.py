# SPDX-License-Identifier: Apache-2.0
"""Raw chunks of known content for several nodes, and what must become of them. Pure, and all of it from one seed.

The truth is worked out here from the plan alone, by rules of thumb that owe the join nothing: a pod's zone is its
node's, an ingress row from a pod counts on its sender's node, what comes from outside counts.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from common.kafka.clients import partition_for
from schemas.amount import NOTHING, Amount
from schemas.flow import Workload
from schemas.ids import Origin
from schemas.ledger import LedgerRecord
from schemas.raw import encode_chunk
from schemas.topology import TopologyState

CLUSTER = "torture"
NODES = tuple(f"node-{number}" for number in range(6))
ZONES = ("zone-1a", "zone-1b", "zone-1c")
PODS_OF_NODE = 5
ROWS_OF_CHUNK = 40
WINDOW_MS = 10_000
OUTSIDE = ("8.8.8.8", "1.1.1.1")
# As long as Kubernetes lets a name be.
LONGEST = 253


class Expected(NamedTuple):
    """What a row must become, whoever reads it."""

    bytes: int
    packets: int
    scope: str
    src_zone: str
    dst_zone: str


@dataclass(frozen=True, slots=True)
class Window:
    """A window as a collector would publish it, and the flows that must come of it, by id."""

    node: str
    sequence: int
    start_ms: int
    end_ms: int
    chunks: list[bytes]
    ledger: LedgerRecord
    flows: dict[str, Expected]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the plan."""

    name: str
    address: str
    node: str


def zone_of(node: str) -> str:
    """Return a node's zone."""
    return ZONES[NODES.index(node) % len(ZONES)]


def pods() -> list[Pod]:
    """Return every pod."""
    return [
        Pod(f"app-{node}-{i}", f"10.42.{number}.{10 + i}", node)
        for number, node in enumerate(NODES)
        for i in range(PODS_OF_NODE)
    ]


def long_pods() -> list[Pod]:
    """Return a pod of each node with the longest names that there are; they send in no window but `long` ones."""
    return [Pod(f"{number}".rjust(LONGEST, "x"), f"10.42.{number}.200", node) for number, node in enumerate(NODES)]


def topology(since_ms: int) -> list[TopologyState]:
    """Return the cluster as a `--topology` file holds it."""
    nodes = [
        TopologyState(
            kind="node",
            uid=f"uid-{node}",
            resource_version="1",
            name=node,
            addresses=[f"192.168.0.{10 + number}"],
            from_ms=since_ms,
            zone=zone_of(node),
            region="zone",
            pod_cidrs=(f"10.42.{number}.0/24",),
        )
        for number, node in enumerate(NODES)
    ]
    return nodes + [
        TopologyState(
            kind="pod",
            uid=f"uid-{pod.address}",
            resource_version="2",
            name=pod.name,
            namespace="shop" if len(pod.name) < LONGEST else "n" * LONGEST,
            addresses=[pod.address],
            from_ms=since_ms,
            node=pod.node,
            workload=Workload("Deployment", pod.name.rpartition("-")[0] or pod.name),
        )
        for pod in (*pods(), *long_pods())
    ]


@dataclass
class Content:
    """The windows of every node in turn. The same seed and start give the same bytes."""

    seed: int
    start_ms: int
    partitions: int
    boots: dict[str, str] = field(default_factory=dict)
    shift_ms: dict[str, int] = field(default_factory=dict)

    def window(self, node: str, sequence: int, rows: int | None = None, *, long: bool = False) -> Window:
        """Return a node's window of that number; `shift_ms` is how far its clock is off.

        `long`: all rows are of pods with the longest names, and in one chunk.
        """
        rng = random.Random(f"{self.seed}/{node}/{self.boot(node)}/{sequence}")
        start = self.start_ms + sequence * WINDOW_MS + self.shift_ms.get(node, 0)
        made = [_row(rng, node) for _ in range(rows or rng.choice((1, 7, 30, 60, 110)))]
        made[0] = _sent(rng, node)  # at least one flow comes of each window, so that every window can be waited for
        if long:
            made = [_between(rng, node, number) for number in range(len(made))]
        size = len(made) if long else ROWS_OF_CHUNK
        parts = [made[i : i + size] for i in range(0, len(made), size)]
        head: dict[str, Any] = {
            "cluster": CLUSTER,
            "node": node,
            "boot_id": self.boot(node),
            "generation": 1,
            "sequence": sequence,
            "chunks": len(parts),
            "start_ms": start,
            "end_ms": start + WINDOW_MS,
            "hook": "netfilter",
        }
        amount = sum((Amount(r["bytes"], r["packets"], 1) for r in made), NOTHING)
        prefix = f"{CLUSTER}/{node}/{self.boot(node)}/1/{sequence}"
        return Window(
            node=node,
            sequence=sequence,
            start_ms=start,
            end_ms=start + WINDOW_MS,
            chunks=[_chunk(head | {"chunk": number}, part, amount) for number, part in enumerate(parts)],
            ledger=_entry(prefix, node, self.partition(node), start, amount, len(parts)),
            flows={
                f"{prefix}/{number}/{index}": expected
                for number, part in enumerate(parts)
                for index, row in enumerate(part)
                if (expected := _expected(row))
            },
        )

    def partition(self, node: str) -> int:
        """Return the partition that a node's collector would choose."""
        return partition_for(node, self.partitions)

    def boot(self, node: str) -> str:
        """Return the boot id of a node's present life."""
        return self.boots.get(node, "5be6c2f0a91d")

    def origin(self, node: str) -> Origin:
        """Return a node's present life."""
        return Origin(CLUSTER, node, self.boot(node))


def totals(flows: Iterable[Expected]) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return bytes and packets by source zone, destination zone and scope."""
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for flow in flows:
        key = (flow.src_zone, flow.dst_zone, flow.scope)
        size, packets = sums.get(key, (0, 0))
        sums[key] = (size + flow.bytes, packets + flow.packets)
    return sums


def _row(rng: random.Random, node: str) -> dict[str, Any]:
    what = rng.random()
    if what < 0.7:
        return _sent(rng, node)
    here = rng.choice([pod for pod in pods() if pod.node == node])
    if what < 0.85:
        return _make(rng, rng.choice(OUTSIDE), here.address, 1)
    far = rng.choice([pod for pod in pods() if pod.node != node])
    return _make(rng, far.address, here.address, 1)


def _sent(rng: random.Random, node: str) -> dict[str, Any]:
    here = rng.choice([pod for pod in pods() if pod.node == node])
    there = rng.choice([pod.address for pod in pods() if pod != here] + list(OUTSIDE))
    return _make(rng, here.address, there, 0)


def _between(rng: random.Random, node: str, number: int) -> dict[str, Any]:
    here, there = ([pod.address for pod in long_pods() if (pod.node == node) is own] for own in (True, False))
    return _make(rng, here[0], rng.choice(there), 0) | {"dst_port": 1 + number}


def _make(rng: random.Random, src: str, dst: str, direction: int) -> dict[str, Any]:
    packets = rng.randrange(1, 2000)
    return {
        "src": src,
        "dst": dst,
        "protocol": rng.choice((6, 17)),
        "src_port": 0,
        "dst_port": rng.choice((443, 5432, 8080, 53)),
        "direction": direction,
        "dnat": rng.randrange(2),
        "bytes": packets * rng.randrange(60, 1500),
        "packets": packets,
        "encapsulation": 0,
    }


def _expected(row: dict[str, Any]) -> Expected | None:
    """Return what a row must become; None for what its sender's own node has counted."""
    nodes = {pod.address: pod.node for pod in (*pods(), *long_pods())}
    src, dst = nodes.get(row["src"]), nodes.get(row["dst"])
    if row["direction"] == 1 and src is not None:
        return None
    zones = [zone_of(node) if node else "" for node in (src, dst)]
    if not src or not dst:
        scope = "external"
    elif src == dst:
        scope = "same_node"
    else:
        scope = "same_zone" if zones[0] == zones[1] else "cross_zone"
    return Expected(row["bytes"], row["packets"], scope, zones[0], zones[1])


def _chunk(head: dict[str, Any], rows: list[dict[str, Any]], amount: Amount) -> bytes:
    addresses = list(dict.fromkeys(address for row in rows for address in (row["src"], row["dst"])))
    columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("src", "dst")}
    columns |= {side: [addresses.index(row[side]) for row in rows] for side in ("src", "dst")}
    books = {"bytes": amount.bytes, "packets": amount.packets, "rows": amount.rows}
    ledger = {"ledger": {"hook": books, "map": books}} if head["chunk"] == 0 else {}
    return encode_chunk(head | ledger, addresses, columns)


def _entry(id_: str, node: str, partition: int, start_ms: int, amount: Amount, chunks: int) -> LedgerRecord:
    return LedgerRecord(
        hop="collector",
        id=id_,
        partition=partition,
        start_ms=start_ms,
        end_ms=start_ms + WINDOW_MS,
        taken=amount,
        given=amount,
        node=node,
        hook="netfilter",
        chunks=chunks,
    )
