# SPDX-License-Identifier: Apache-2.0
"""Flows as JSON lines, formatted as they come in: end points are known as ready text. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import orjson
from msgspec import UNSET

from schemas.flow import FlowHead, Observer
from sinks.flowlog.rows.columns import FlatEnd
from sinks.intake import Row

SUFFIX = ".jsonl"


class JsonLines:
    """The lines of one file that is to be."""

    def __init__(self) -> None:
        self.rows = 0
        self.size_bytes = 0
        self._parts: list[bytes] = []

    def add(self, rows: Sequence[Row[FlatEnd]]) -> None:
        """Take flows."""
        lines = "".join([_line(*row) for row in rows]).encode()
        self._parts.append(lines)
        self.rows += len(rows)
        self.size_bytes += len(lines)

    def encode(self) -> list[bytes]:
        """Return the file, in parts."""
        return self._parts


def _line(flow: FlowHead, source: FlatEnd, destination: FlatEnd, observer: Observer) -> str:
    dnat = "" if flow.dnat is UNSET else ',"dnat":true' if flow.dnat else ',"dnat":false'
    outer = "" if flow.encapsulation is UNSET else f',"encapsulation":{_quoted(flow.encapsulation)}'
    server = "" if flow.server is UNSET else f',"server":"{flow.server}"'
    version = "" if flow.attribution_version is UNSET else f',"attribution_version":{flow.attribution_version}'
    zone = UNSET if observer.cloud is UNSET else observer.cloud.availability_zone
    seen_in = "" if zone is UNSET else f',"observer_zone":{_quoted(zone)}'
    return (
        f'{{"id":{orjson.dumps(flow.id).decode()},"window_start":"{_timestamp(flow.start_ms)}",'
        f'"window_end":"{_timestamp(flow.end_ms)}","scope":"{flow.scope}","direction":"{flow.direction}",'
        f'"bytes":{flow.bytes},"packets":{flow.packets}{dnat}{outer},'
        f'"transport":{_quoted(flow.network.transport)},"network_type":"{flow.network.type}",'
        f'{source.as_source},{destination.as_destination},"observer_node":{_quoted(observer.node)}{seen_in},'
        f'"cluster":{_quoted(flow.k8s.cluster.name)},"raw_partition":{flow.raw.partition},'
        f'"raw_offset":{flow.raw.offset}{server}{version}}}\n'
    )


@lru_cache(maxsize=10_000)
def _quoted(value: str) -> str:
    return orjson.dumps(value).decode()


@lru_cache(maxsize=1_000)
def _timestamp(unix_ms: int) -> str:
    at = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03}Z"
