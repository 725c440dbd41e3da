# SPDX-License-Identifier: Apache-2.0
"""A cluster to join with, and raw chunks of its traffic: the same every time. Pure.

A node has 30 pods; each chunk is one node's, 4,000 flows between its pods, some 600 pods of other nodes, a database
that a CIDR rule names, and the internet: 1,000 distinct addresses.
"""

import random
from dataclasses import dataclass
from typing import Any

from schemas.flow import Workload
from schemas.raw import COLUMNS, encode_chunk
from schemas.topology import TopologyState

CLUSTER = "bench"
NODES, PODS_A_NODE, ROWS = 300, 30, 4000
START_MS, WINDOW_MS = 1_795_384_000_000, 10_000
_PEERS, _OUTSIDE = 600, 300
_PORTS = (80, 443, 5432, 6379, 8080, 9090)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One encoded raw chunk and what stands in its record."""

    node: str
    value: bytes
    end_ms: int


def states(*, workloads_of_their_own: bool = False) -> list[TopologyState]:
    """Return the cluster's nodes and pods: of 30 workloads, or each of its own."""
    found = []
    for number in range(NODES):
        zone = "abc"[number % 3]
        found.append(_node(number, zone))
        suffix = f"-{number}" if workloads_of_their_own else ""
        found += [_pod(number, place, f"service-{place}{suffix}") for place in range(PODS_A_NODE)]
    return found


def chunks(
    count: int,
    seed: int = 1,
    *,
    observers: int = 3,
    nodes: int = NODES,
    pods_a_node: int = PODS_A_NODE,
    rows: int = ROWS,
) -> list[Chunk]:
    """Return so many chunks, each of another window of one of the observers, the first of so many nodes."""
    chance = random.Random(seed)
    kinds = [_rows(chance, number, nodes, pods_a_node, rows) for number in range(observers)]
    return [_chunk(number % observers, number // observers, *kinds[number % observers]) for number in range(count)]


def address_of(node: int, place: int) -> str:
    """Return a pod's address: `place` is its number on its node."""
    return f"10.{node // 250}.{node % 250}.{place + 10}"


def encoded(node: int, sequence: int, start_ms: int, addresses: list[str], columns: dict[str, Any]) -> bytes:
    """Return a raw chunk of a node's window of `WINDOW_MS`."""
    size, packets = int(sum(columns["bytes"])), int(sum(columns["packets"]))
    amount = {"bytes": size, "packets": packets, "rows": len(columns["bytes"])}
    head = {
        "cluster": CLUSTER,
        "node": f"node-{node}",
        "boot_id": "0123456789ab",
        "generation": 1,
        "sequence": sequence,
        "chunk": 0,
        "chunks": 1,
        "start_ms": start_ms,
        "end_ms": start_ms + WINDOW_MS,
        "hook": "netfilter",
        "ledger": {"hook": amount, "map": amount},
    }
    return encode_chunk(head, addresses, columns)


def _chunk(node: int, sequence: int, addresses: list[str], columns: dict[str, list[int]]) -> Chunk:
    start_ms = START_MS + sequence * WINDOW_MS
    return Chunk(f"node-{node}", encoded(node, sequence, start_ms, addresses, columns), start_ms + WINDOW_MS)


def _rows(
    chance: random.Random, node: int, nodes: int, pods_a_node: int, rows: int
) -> tuple[list[str], dict[str, list[int]]]:
    own = [address_of(node, place) for place in range(pods_a_node)]
    peers = [address_of(chance.randrange(nodes), chance.randrange(pods_a_node)) for _ in range(_PEERS)]
    outside = [f"8.{chance.randrange(256)}.{chance.randrange(256)}.8" for _ in range(_OUTSIDE)]
    outside += [f"10.250.0.{host}" for host in range(10)]
    addresses = list(dict.fromkeys(own + peers + outside))
    # A server or a client is in two flows or more.
    reached = chance.sample(range(len(addresses)), min(len(addresses), rows // 2))
    columns: dict[str, list[int]] = {name: [0] * rows for name in COLUMNS}
    for row in range(rows):
        columns["src"][row] = chance.randrange(pods_a_node)
        columns["dst"][row] = chance.choice(reached)
        columns["protocol"][row] = 6
        columns["dst_port"][row] = chance.choice(_PORTS)
        columns["dnat"][row] = chance.randrange(2)
        columns["bytes"][row] = int(chance.lognormvariate(9, 2)) + 60
        columns["packets"][row] = columns["bytes"][row] // 900 + 1
    used = {number: place for place, number in enumerate(sorted({*columns["src"], *columns["dst"]}))}
    for name in ("src", "dst"):
        columns[name] = [used[number] for number in columns[name]]
    return [addresses[number] for number in used], columns


def _node(number: int, zone: str) -> TopologyState:
    return TopologyState(
        kind="node",
        uid=f"node-uid-{number}",
        resource_version="1",
        name=f"node-{number}",
        addresses=[f"192.168.{number // 250}.{number % 250 + 1}"],
        from_ms=0,
        zone=f"eu-west-1{zone}",
        region="eu-west-1",
        zone_id=f"euw1-az{'abc'.index(zone) + 1}",
        pod_cidrs=(f"10.{number // 250}.{number % 250}.0/24",),
    )


def _pod(node: int, place: int, workload: str) -> TopologyState:
    return TopologyState(
        kind="pod",
        uid=f"pod-uid-{node}-{place}",
        resource_version="1",
        name=f"{workload}-7d9f8b6c5-x{node:04}",
        namespace="shop",
        addresses=[address_of(node, place)],
        from_ms=0,
        node=f"node-{node}",
        workload=Workload("Deployment", workload),
        ready=True,
    )
