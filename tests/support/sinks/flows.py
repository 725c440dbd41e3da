# SPDX-License-Identifier: Apache-2.0
"""Builders of enriched flows; a test overrides what it is about."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from schemas.flow import (
    Cloud,
    Cluster,
    Endpoint,
    Flow,
    Kubernetes,
    Named,
    Network,
    Observer,
    RawPosition,
    Workload,
    decode_flow,
)

START_MS, END_MS = 1_795_384_000_000, 1_795_384_010_000
BOOT = "5be6c2f0a91d"


@dataclass(slots=True)
class StoredRecord:
    """A record as a consumer hands it out."""

    offset: int
    value: bytes | None
    key: bytes | None = b"node-a1"
    timestamp: int = END_MS


def cloud(zone: str | None) -> Any:
    """Return a cloud of one region, or nothing for no zone."""
    return UNSET if zone is None else Cloud(availability_zone=zone, region="eu-west-1")


def pod(name: str, zone: str | None, **overrides: Any) -> Endpoint:
    """Return a pod `shop/<name>-0` of Deployment `<name>` on node `node-<zone>`."""
    k8s = Kubernetes(
        namespace=Named("shop"),
        pod=Named(f"{name}-0"),
        workload=Workload("Deployment", name),
        node=Named(f"node-{zone}"),
    )
    fields = {"kind": "pod", "address": "10.42.1.17", "k8s": k8s, "cloud": cloud(zone)} | overrides
    return Endpoint(**fields)


def node(name: str, zone: str | None, **overrides: Any) -> Endpoint:
    """Return a node."""
    fields = {"kind": "node", "address": "10.0.0.1", "k8s": Kubernetes(node=Named(name)), "cloud": cloud(zone)}
    return Endpoint(**(fields | overrides))


def other(kind: str, zone: str | None = None, **overrides: Any) -> Endpoint:
    """Return an end point of another kind."""
    return Endpoint(**({"kind": kind, "address": "203.0.113.9", "cloud": cloud(zone)} | overrides))


API, POSTGRES, EXTERNAL = pod("api", "a"), pod("postgres", "b", port=5432, address="10.42.2.9"), other("external")


def flow_id(sequence: int = 1, row: int = 0, node: str = "node-a1", chunk: int = 0, generation: int = 1) -> str:
    """Return an id of cluster `lab`."""
    return f"lab/{node}/{BOOT}/{generation}/{sequence}/{chunk}/{row}"


def flow(**overrides: Any) -> Flow:
    """Return a flow of 1,000 bytes in 2 packets from API in zone a to POSTGRES in zone b."""
    fields: dict[str, Any] = {
        "id": flow_id(),
        "start_ms": START_MS,
        "end_ms": END_MS,
        "scope": "cross_zone",
        "bytes": 1000,
        "packets": 2,
        "direction": "egress",
        "network": Network("tcp", "ipv4"),
        "source": API,
        "destination": POSTGRES,
        "observer": Observer("node-a1", cloud("a")),
        "k8s": Cluster(Named("lab")),
        "raw": RawPosition(3, 88),
    }
    return Flow(**(fields | overrides))


def encoded(one: Flow) -> bytes:
    """Encode a flow as the enricher does; what a reader would refuse fails here."""
    value = msgspec.json.encode(one)
    assert decode_flow(value) == one
    return value


def records(values: Iterable[bytes | None], offset: int = 0) -> list[StoredRecord]:
    """Return records with consecutive offsets."""
    return [StoredRecord(offset + number, value) for number, value in enumerate(values)]


def window(sequence: int, rows: int, node: str = "node-a1", **overrides: Any) -> Iterator[Flow]:
    """Yield the flows of one window, 10 s after the one before; row n has 100 + n bytes."""
    start = START_MS + sequence * 10_000
    for row in range(rows):
        yield flow(
            **{
                "id": flow_id(sequence, row, node),
                "start_ms": start,
                "end_ms": start + 10_000,
                "bytes": 100 + row,
                "packets": 1,
                "observer": Observer(node, cloud("a")),
            }
            | overrides
        )
