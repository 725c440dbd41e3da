# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit`: read the ledger of a time range, reconcile it, say what it comes to.

Exit status 0 if every byte that the hook saw is accounted for, 1 if not (or nothing was seen), 2 for wrong use.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Literal

import orjson
from aiokafka.structs import ConsumerRecord
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from audit.books import Books, conclude
from audit.result import Audit
from common.errors import Refusal
from common.settings import KafkaSettings, load, refuse
from replay import audit_view
from replay.read import read_topic
from replay.time_range import TimeRange, parse_range
from schemas.errors import DecodeError
from schemas.ids import Origin
from schemas.ledger import decode_ledger
from schemas.topology import TopologyState, decode_topology

# The latest that a window may arrive at the last hop and still be called in flight: the window itself is over;
# the enricher waits 2 s at most for its index, each hop commits about once a second, a sink's cut may take longer.
DEFAULT_SETTLE_SECONDS = 90.0
# Windows that fit are let go of once so many are open, but for those of the last minutes of what was read so far.
_SETTLE_WHEN_OPEN = 20_000
_SETTLE_MARGIN_MS = 300_000


class AuditSettings(KafkaSettings):
    """Reconcile, window by window, what the hook saw with what every later hop took."""

    model_config = SettingsConfigDict(
        cli_shortcuts={"from-time": "from", "to-time": "to", "output": "o"},
    )

    since: str | None = Field(None, description="how far back, such as 15m or 1h (the default)")
    from_time: str | None = Field(None, description="start: RFC 3339 or now-1h")
    to_time: str | None = Field(None, description="end: RFC 3339, now-5m or now (the default)")
    cluster: str | None = Field(None, description="only this cluster's windows")
    output: Literal["table", "json"] = Field("table", description="how to print the answer")
    settle_seconds: float = Field(
        DEFAULT_SETTLE_SECONDS, ge=0, description="a window younger than this that has not arrived is in flight"
    )


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    settings = load(AuditSettings, "audit", argv)
    now_ms = time.time_ns() // 1_000_000
    try:
        span = parse_range(settings.since, settings.from_time, settings.to_time, now_ms)
        audit = asyncio.run(audit_range(settings, span, now_ms))
    except (ValueError, Refusal) as error:
        refuse("zonemeter audit", str(error))
    if settings.output == "json":
        sys.stdout.write(orjson.dumps(audit_view.as_dict(audit), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        audit_view.print_table(audit, span)
    return 0 if audit.closes else 1


async def audit_range(settings: AuditSettings, span: TimeRange, now_ms: int) -> Audit:
    """Read ledger and topology and reconcile the windows that start in `span`; raise `Refusal` if that cannot be."""
    audit = Audit()
    books = Books(lambda origin, start_ms: audit, lambda origin, start_ms: _wanted(settings, span, origin, start_ms))
    async for batch in read_topic(settings, settings.topics.ledger, span.from_ms):
        for message in batch:
            if message.value is not None:
                with _place_named(message):
                    books.take(decode_ledger(message.value))
        if len(books) > _SETTLE_WHEN_OPEN:
            books.settle(_SETTLE_MARGIN_MS)
    nodes = [state async for state in _nodes(settings) if _within(state, span)]
    return conclude(books, audit, now_ms - int(settings.settle_seconds * 1000), nodes or None)


async def _nodes(settings: KafkaSettings) -> AsyncIterator[TopologyState]:
    async for batch in read_topic(settings, settings.topics.topology):
        for message in batch:
            # Most states are pods'; a key begins with its kind.
            if message.value is not None and (message.key or b"").startswith(b"node/"):
                with _place_named(message):
                    yield decode_topology(message.value)


@contextmanager
def _place_named(message: ConsumerRecord[bytes, bytes]) -> Iterator[None]:
    try:
        yield
    except DecodeError as error:
        raise Refusal(f"{message.topic} partition {message.partition} offset {message.offset}: {error}") from error


def _wanted(settings: AuditSettings, span: TimeRange, origin: Origin, start_ms: int) -> bool:
    return settings.cluster in (None, origin.cluster) and span.holds(start_ms)


def _within(state: TopologyState, span: TimeRange) -> bool:
    return state.from_ms < span.to_ms and (state.to_ms is None or state.to_ms > span.from_ms)
