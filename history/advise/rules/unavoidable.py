# SPDX-License-Identifier: Apache-2.0
"""What crosses zones because it is meant to: the price of availability. Told as a sum, never advised away. Pure."""

from collections.abc import Container

from history.advise.finding import Case, Unavoidable
from history.advise.rules.placement import KAFKA, READ_MOSTLY, STORES
from history.model.evidence import Cell
from history.model.states.ready import workload_of

QUORUM = {2379: "etcd", 2380: "etcd", 2888: "ZooKeeper", 3888: "ZooKeeper", 8300: "Consul", 8301: "Consul"}
CONTROL_PLANE = (6443, 10250, 10257, 10259)


def unavoidable(case: Case, spared: Container[Cell]) -> list[Unavoidable]:
    """Return, by why, what crosses zones and no finding spares."""
    written = {
        (label, port) for (label, port), cells in case.by_server.items() if port in STORES and _is_written(cells)
    }
    sums: dict[str, dict[Cell, int]] = {}
    for cell, size in case.evidence.crossing():
        why = None if cell in spared else _why(cell, written)
        if why:
            sums.setdefault(why, {})[cell] = size
    return [Unavoidable(why, cells) for why, cells in sorted(sums.items())]


def _why(cell: Cell, written: Container[tuple[str, int]]) -> str:
    server = workload_of(cell.server.label)
    if cell.port in QUORUM:
        return "quorum: members of etcd, ZooKeeper or Consul agree"
    if server is not None and server.kind == "StatefulSet" and cell.client.label == cell.server.label:
        return "replication within one StatefulSet"
    if cell.port in CONTROL_PLANE:
        return "nodes and the control plane"
    if cell.port in KAFKA and cell.is_request:
        return "producers write to partitions' leaders"
    if cell.port in STORES and (cell.is_request or (cell.server.label, cell.port) in written):
        return "writes to a database's primary, and replication from it"
    return ""


def _is_written(cells: list[tuple[Cell, int]]) -> bool:
    asked = sum(size for cell, size in cells if cell.is_request)
    return sum(size for _, size in cells) - asked < READ_MOSTLY * asked
