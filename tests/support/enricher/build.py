# SPDX-License-Identifier: Apache-2.0
"""Builders of the records that the enricher's tests are made of."""

from collections.abc import Generator
from typing import Any, TypeVar, cast

from schemas.flow import Workload
from schemas.raw import RawChunk, decode_chunk, encode_chunk
from schemas.topology import TopologyState

T = TypeVar("T")

START = 1_795_384_000_000
END = START + 10_000
BOOT = "5be6c2f0a91d"


def pod(name: str, address: str, node: str, **overrides: Any) -> TopologyState:
    fields: dict[str, Any] = {
        "kind": "pod",
        "uid": f"uid-{name}",
        "resource_version": "100",
        "name": name,
        "namespace": "shop",
        "addresses": [address] if address else [],
        "from_ms": START - 3_600_000,
        "node": node,
        "workload": Workload("Deployment", name.partition("-")[0]),
    }
    return TopologyState(**(fields | overrides))


def node(name: str, address: str, zone: str | None = "eu-west-1a", **overrides: Any) -> TopologyState:
    fields: dict[str, Any] = {
        "kind": "node",
        "uid": f"uid-{name}",
        "resource_version": "50",
        "name": name,
        "addresses": [address],
        "from_ms": START - 86_400_000,
        "zone": zone,
        "region": zone[:-1] if zone else None,
    }
    return TopologyState(**(fields | overrides))


def namespace(name: str, **overrides: Any) -> TopologyState:
    fields: dict[str, Any] = {
        "kind": "namespace",
        "uid": f"uid-ns-{name}",
        "resource_version": "60",
        "name": name,
        "from_ms": START - 86_400_000,
    }
    return TopologyState(**(fields | overrides))


def service(name: str, address: str, **overrides: Any) -> TopologyState:
    fields: dict[str, Any] = {
        "kind": "service",
        "uid": f"uid-svc-{name}",
        "resource_version": "70",
        "name": name,
        "namespace": "shop",
        "addresses": [address],
        "from_ms": START - 86_400_000,
    }
    return TopologyState(**(fields | overrides))


def row(src: str, dst: str, **overrides: Any) -> dict[str, Any]:
    return {
        "src": src,
        "dst": dst,
        "protocol": 6,
        "src_port": 0,
        "dst_port": 5432,
        "direction": 0,
        "dnat": 0,
        "bytes": 1000,
        "packets": 10,
        "encapsulation": 0,
    } | overrides


def encoded(rows: list[dict[str, Any]], **overrides: Any) -> bytes:
    addresses = list(dict.fromkeys(a for r in rows for a in (r["src"], r["dst"])))
    columns: dict[str, Any] = {
        name: [r[name] for r in rows]
        for name in ("protocol", "src_port", "dst_port", "direction", "dnat", "bytes", "packets", "encapsulation")
    }
    columns |= {name: [addresses.index(r[name]) for r in rows] for name in ("src", "dst")}
    if any("server" in r for r in rows):
        columns["server"] = [r.get("server", 0) for r in rows]
    amount = {"bytes": sum(columns["bytes"]), "packets": sum(columns["packets"]), "rows": len(rows)}
    head: dict[str, Any] = {
        "cluster": "prod-eu",
        "node": "node-a1",
        "boot_id": BOOT,
        "generation": 3,
        "sequence": 8121,
        "chunk": 0,
        "chunks": 1,
        "start_ms": START,
        "end_ms": END,
        "hook": "netfilter",
    } | overrides
    if head["chunk"] == 0 and "ledger" not in head:
        head["ledger"] = {"hook": amount, "map": amount}
    return encode_chunk(head, addresses, columns)


def chunk(rows: list[dict[str, Any]], **overrides: Any) -> RawChunk:
    return decode_chunk(encoded(rows, **overrides))


def done(work: Generator[None, None, T]) -> T:
    """Do work that yields after each part to its end; return what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as finished:
            return cast(T, finished.value)
