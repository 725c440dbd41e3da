# SPDX-License-Identifier: Apache-2.0
"""One reading of a ledger by a process of its own: `zonemeter audit`'s work and its service's, or the yardstick's.

python -m bench.commands.readers.audit ours|yardstick FILE
"""

import gc
import itertools
import os
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest

from audit.books import Reconciler, conclude
from audit.entry import Coverage
from audit.metrics import AuditMetrics
from audit.result import Audit
from audit.rolling import MINUTE_MS, Rolling
from bench.commands import ledger
from bench.commands.ledger import Entry
from bench.measure.process import resident_bytes
from bench.measure.reading import Took, run
from common.gc_settings import THRESHOLDS
from history.audit.command import trim
from history.audit.deep.facts import Wanted
from history.audit.waiting import late_of
from history.model.time_range import TimeRange
from schemas.ledger import decode_ledger, read_ledger

_BATCH, _SPAN_MS, _SETTLE_MS = 2_000, 3_600_000, 90_000


def _work(path: str, take: Callable[[list[Entry]], None]) -> float:
    """Return the CPU seconds that it takes, reading the file not included."""
    entries, spent = ledger.read(path), 0.0
    while batch := list(itertools.islice(entries, _BATCH)):
        began = time.process_time()
        take(batch)
        spent += time.process_time() - began
    return spent


def ours(path: str) -> Took:
    """Reconcile it as the command does, then the end of it as the service does."""
    gc.set_threshold(*THRESHOLDS)
    audit = Audit()
    books = Reconciler(audit.of, Wanted(TimeRange(0, 1 << 60)).holds)

    def take(batch: list[Entry]) -> None:
        for entry in batch:
            books.take(read_ledger(entry.value, entry.key, entry.partition))
        trim(books)

    spent = _work(path, take)
    began = time.process_time()
    books.settle()
    late_of(books, 1 << 60)
    conclude(books, audit, 1 << 60)
    spent += time.process_time() - began
    if not audit.closes:
        raise RuntimeError("the books do not close, and they should")
    peak, nodes = resident_bytes(os.getpid(), peak=True), len(audit.nodes_metered)
    return {"cpu_seconds": spent, "peak_mb": peak / 1e6, "check_seconds": _check_seconds(nodes)}


def _check_seconds(nodes: int) -> float:
    """Return the CPU seconds of a check: the minutes of an hour, and the windows that wait for the flow log."""
    now_ms = ledger.START_MS + _SPAN_MS
    rolling = Rolling(_SPAN_MS)
    rolling.move(now_ms)
    books = Reconciler(rolling.sums_of, rolling.wants)
    metrics = AuditMetrics(registry := CollectorRegistry())
    for begin_ms in range(ledger.START_MS, now_ms, MINUTE_MS):
        for life in map(ledger.origin, range(nodes)):
            rolling.sums_of(life, begin_ms).cover(life.node, Coverage(1, 1, 1, 1))
    for entry in ledger.entries(nodes, ledger.cut_windows(nodes), start_ms=now_ms):
        if not entry.key.startswith(b"flowlog"):
            books.take(read_ledger(entry.value, entry.key, entry.partition))
    began = time.process_time()
    list(books.expire(rolling.floor_ms))
    metrics.show(rolling.recent(books, now_ms - _SETTLE_MS), books, {})
    generate_latest(registry)
    return time.process_time() - began


def yardstick(path: str) -> Took:
    """Decode it."""

    def take(batch: list[Entry]) -> None:
        for entry in batch:
            decode_ledger(entry.value)

    return {"cpu_seconds": _work(path, take)}


if __name__ == "__main__":
    run(ours=ours, yardstick=yardstick)
