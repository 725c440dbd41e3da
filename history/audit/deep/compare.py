# SPDX-License-Identifier: Apache-2.0
"""Compares what stands in topics and files with what the ledger says of it. Pure."""

from collections.abc import Iterator

from common.amounts import first_few
from history.audit.deep.facts import ChunkFlows, Copy, Discrepancy, Facts
from schemas.amount import NOTHING, Amount
from schemas.ids import chunk_id, parse_chunk_id, parse_window_id
from schemas.ledger import LedgerRecord

# Of missing flows so many are named.
_NAMED = 12


def compare(facts: Facts) -> list[Discrepancy]:
    """Return what does not fit, in the order of the pipeline, after what was found while reading."""
    found = list(facts.findings)
    for window in sorted(facts.windows.values(), key=lambda entry: (entry.node or "", entry.start_ms)):
        found += _window(facts, window)
    for chunk, copy in facts.raw.items():
        found += _copy(facts, chunk, copy)
    for chunk, entry in facts.entries.items():
        found += _flows(facts, chunk, entry)
    found += _again(facts)
    for source, of_source in (("enriched", facts.enriched), ("archive", facts.archive or {})):
        for chunk, flows in of_source.items():
            found += _untold(facts, source, chunk, flows)
    return found


def _window(facts: Facts, window: LedgerRecord) -> Iterator[Discrepancy]:
    """Look that every chunk that a collector published is in the raw topic, and that they hold what it gave out."""
    if not facts.is_kept("raw", window.end_ms):
        return
    origin, position = parse_window_id(window.id)
    ids = [chunk_id(origin, position.generation, position.sequence, number) for number in range(window.chunks or 0)]
    missing = [chunk for chunk in ids if chunk not in facts.raw]
    for chunk in missing:
        entry = facts.entries.get(chunk)
        after = "and nobody enriched it" if entry is None else f"the enricher took {entry.taken.bytes:,} bytes of it"
        yield Discrepancy("raw", f"{chunk} is not in partition {facts.partition}, its collector published it; {after}")
    held = sum((facts.raw[chunk].amount for chunk in ids if chunk in facts.raw), NOTHING)
    if not missing and _size(held) != _size(window.given):
        yield Discrepancy("raw", f"{window.id} holds {_said(held)}, its collector published {_said(window.given)}")


def _copy(facts: Facts, chunk: str, copy: Copy) -> Iterator[Discrepancy]:
    """Look that a chunk in the raw topic was published by a collector, and enriched, once."""
    origin, position = parse_chunk_id(chunk)
    at = f"partition {facts.partition} offset {copy.offset}"
    window = chunk.rpartition("/")[0]
    if window not in facts.windows and facts.is_past("collector", origin, position[:3]):
        yield Discrepancy("raw", f"{at} is {chunk}, and the ledger has no entry of its collector")
    entry = facts.entries.get(chunk)
    is_past = facts.is_past("enricher", origin, position[:3])
    if entry is not None and entry.taken != copy.amount:
        yield Discrepancy("raw", f"{at} is {chunk} with {_said(copy.amount)}, the enricher took {_said(entry.taken)}")
    if entry is None and is_past:
        yield Discrepancy("raw", f"{at} is {chunk}, and the enricher passed over it")
    # By their number, not by their offsets: those change with a mirror, or a topic recreated.
    for number, offset in enumerate(copy.again):
        told = number < facts.repeats.get(chunk, 0)
        what = f"partition {facts.partition} offset {offset} is {chunk} again, first at {copy.offset}"
        if told or is_past:
            said = "the enricher put it aside" if told else "and the enricher does not say that it put it aside"
            yield Discrepancy("raw", f"{what}: {said}", is_fault=not told)


def _flows(facts: Facts, chunk: str, entry: LedgerRecord) -> Iterator[Discrepancy]:
    """Look that all an enricher gave out of a chunk is in the enriched topic, and in the files once they are so far."""
    rows = _rows_given_singly(facts, chunk, entry)
    if facts.is_kept("enriched", entry.end_ms):
        yield from _same("enriched", chunk, entry.given, facts.enriched.get(chunk, ChunkFlows()), rows)
    if facts.archive is not None:
        origin, position = parse_chunk_id(chunk)
        if facts.is_past("archive", origin, position[:3]) and facts.is_kept("archive", entry.start_ms):
            yield from _same("archive", chunk, entry.given, facts.archive.get(chunk, ChunkFlows()), rows)


def _same(source: str, chunk: str, given: Amount, found: ChunkFlows, rows: int | None) -> Iterator[Discrepancy]:
    if found.amount == given:
        return
    names = ""
    if rows is not None and (missing := found.missing(rows)):
        names = f"; missing: flow {first_few([*map(str, missing)], _NAMED)}"
    yield Discrepancy(source, f"{chunk} has {_said(found.amount)}, the enricher gave out {_said(given)}{names}")


def _rows_given_singly(facts: Facts, chunk: str, entry: LedgerRecord) -> int | None:
    """Return how many rows a chunk has, if each of them became one flow of its number; None otherwise."""
    raw = facts.raw.get(chunk)
    rows = entry.taken.rows if raw is None else raw.amount.rows
    return rows if entry.given.rows == rows and not entry.aside and entry.rolled_up is None else None


def _again(facts: Facts) -> Iterator[Discrepancy]:
    """Look that each sink that read beyond a flow that stands there once more says that it put such flows aside.

    Which ones it does not say: only how many.
    """
    silent = {
        sink: read_to
        for sink, read_to in facts.read_to.items()
        if facts.put_aside[sink] < sum(offset < read_to for offset, _ in facts.again)
    }
    for offset, flow_id in facts.again:
        sinks = sorted(sink for sink, read_to in silent.items() if offset < read_to and facts.is_whole("ledger"))
        at = f"partition {facts.partition} offset {offset} is {flow_id} again"
        if sinks:
            told = ", ".join(f"{sink} says so of {facts.put_aside[sink]} of {len(facts.again)}" for sink in sinks)
            yield Discrepancy("enriched", f"{at}, and not every such flow was put aside: {told}")
        else:
            yield Discrepancy("enriched", f"{at}: readers skip it by its id", is_fault=False)


def _untold(facts: Facts, source: str, chunk: str, flows: ChunkFlows) -> Iterator[Discrepancy]:
    """Look that an enricher tells of every chunk that stands somewhere, once it has taken a later one."""
    origin, position = parse_chunk_id(chunk)
    if chunk not in facts.entries and facts.is_past("enricher", origin, position[:3]):
        yield Discrepancy(
            source, f"{chunk} has {_said(flows.amount)}, and the ledger has no entry of an enricher for it"
        )


def _size(amount: Amount) -> tuple[int, int]:
    return amount.bytes, amount.packets


def _said(amount: Amount) -> str:
    return f"{amount.rows:,} flows, {amount.bytes:,} bytes, {amount.packets:,} packets"
