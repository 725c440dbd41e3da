# SPDX-License-Identifier: Apache-2.0
"""Replayed flows as a table for people: the greatest of them, and what all come to, as wide as the page."""

import heapq
from collections import Counter

from msgspec import UNSET

from common.amounts import fitted, human, labelled, short_zones, shorten
from common.terminal import say
from history.model.time_range import TimeRange, timestamp
from history.read.batch import ArchiveParties, FlowBatch
from schemas.flow import FlowHead
from sinks.flowlog.rows.columns import END_COLUMNS, FlatEnd, Value
from sinks.intake import Row


class FlowTable:
    """Keeps the `top` greatest flows and prints them at the end."""

    def __init__(self, span: TimeRange, source: str, top: int) -> None:
        self._span = span
        self._source = source
        self._top = top
        self._known = ArchiveParties()
        self._greatest: list[tuple[int, int, Row[FlatEnd]]] = []
        self._scopes: Counter[str] = Counter()
        self._outer = 0
        self._flows = self._rows = 0

    async def write(self, batch: FlowBatch) -> None:
        """Take some flows."""
        for row, count in zip(batch.rows(self._known), batch.counts(), strict=True):
            self._flows += count
            self._rows += 1
            if row.flow.encapsulation is UNSET:
                self._scopes[row.flow.scope] += row.flow.bytes
            else:
                self._outer += row.flow.bytes
            item = (row.flow.bytes, -self._rows, row)
            if len(self._greatest) < self._top:
                heapq.heappush(self._greatest, item)
            elif item[0] > self._greatest[0][0]:
                heapq.heapreplace(self._greatest, item)

    async def finish(self) -> None:
        """Print."""
        say(*self.lines())

    def lines(self) -> list[str]:
        """Return the table's lines."""
        rows = [row for _, _, row in sorted(self._greatest, key=lambda item: (-item[0], -item[1]))]
        zones = {str(zone) for row in rows for end in row[1:3] if (zone := _facts(end)["zone"])}
        short = short_zones(sorted(zones))
        head = ("window", "from", "", "to", "port", "zones", "bytes")
        body = [head, *(_cells(row.flow, row.source, row.destination, short) for row in rows)]
        total = sum(self._scopes.values())
        parts = [f"{scope.replace('_', ' ')} {human(size)}" for scope, size in self._scopes.most_common()]
        if self._outer:
            parts.append(f"overlay's outer packets {human(self._outer)} (not in the total)")
        more = self._rows - len(rows)
        return [
            *labelled("zonemeter replay", [str(self._span), shorten(self._source, 33)], 19),
            *labelled("", [f"{self._flows:,} flows, {human(total)}:", *parts], 0),
            "",
            *fitted(body, "<<<<><>", (1, 3), gap=" "),
            *([f"and {more:,} smaller ones; -o jsonl, csv or parquet has them all"] if more else []),
        ]


def _cells(flow: FlowHead, source: FlatEnd, destination: FlatEnd, short: dict[str, str]) -> tuple[str, ...]:
    from_, to = _facts(source), _facts(destination)
    port = to["port"] or from_["port"]
    places = [short.get(str(end["zone"]), "ext" if end["kind"] == "external" else "?") for end in (from_, to)]
    return (
        timestamp(flow.start_ms)[11:],
        name_of(from_),
        "->",
        name_of(to),
        "" if port is None else str(port),
        f"{places[0]}>{places[1]}",
        human(flow.bytes),
    )


def _facts(end: FlatEnd) -> dict[str, Value]:
    return dict(zip(END_COLUMNS, end.values, strict=True))


def name_of(end: dict[str, Value]) -> str:
    """Return what the table calls an end; filters understand it."""
    if end["pod"]:
        return f"{end['namespace']}/{end['pod']}"
    if end["kind"] == "node" and end["node"]:
        return f"node/{end['node']}"
    if end["kind"] == "service":
        return f"{end['namespace']}/{end['service']}"
    if end["name"]:
        return f"{end['kind']}/{end['name']}"
    if end["workload"] and end["address"] is None:
        return f"{end['namespace']}/{end['workload']}"  # of pods whose flows were summed up
    return str(end["address"] or end["kind"])
