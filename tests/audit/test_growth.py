# SPDX-License-Identifier: Apache-2.0
"""What a window costs does not depend on how many nodes there are. Counted in calls, so it needs no clock."""

import tracemalloc
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from audit.books import Reconciler, conclude
from audit.metrics import AuditMetrics
from audit.result import Audit
from audit.rolling import Rolling
from audit.settings import AuditServiceSettings
from bench.commands import ledger
from schemas.ledger import read_ledger
from sinks.flowlog.settings import FlowlogSettings
from tests.support.counted import calls

WINDOWS = 12
END_MS = ledger.START_MS + WINDOWS * ledger.WINDOW_MS


def command(nodes: int) -> Callable[[], None]:
    entries = list(ledger.entries(nodes, WINDOWS))

    def work() -> None:
        audit = Audit()
        books = Reconciler(audit.of)
        for number, entry in enumerate(entries):
            books.take(read_ledger(entry.value, entry.key, entry.partition))
            if number % 20 == 0:
                books.trim(30_000, 2 * nodes)
        conclude(books, audit, END_MS)
        assert audit.closes
        assert audit.windows == nodes * WINDOWS

    return work


def check(nodes: int) -> Callable[[], None]:
    """Return a check of the service: windows of which the last wait for the flow log, others closed."""
    metrics = AuditMetrics(CollectorRegistry())
    rolling = Rolling(3_600_000)
    rolling.move(END_MS)
    books = Reconciler(rolling.sums_of, rolling.wants)
    for entry in ledger.entries(nodes, WINDOWS):
        if not entry.key.startswith(b"flowlog") or entry.end_ms < END_MS - 60_000:
            books.take(read_ledger(entry.value, entry.key, entry.partition))

    def work() -> None:
        list(books.expire(rolling.floor_ms))
        metrics.show(rolling.recent(books, END_MS), books, {})

    return work


@pytest.mark.parametrize("part", [command, check])
def test_twice_as_many_nodes_are_twice_the_work(part: Callable[[int], Callable[[], None]]) -> None:
    # From where each node has as many peers as any.
    once, twice = (calls(part(nodes)) for nodes in (40, 80))
    assert twice <= 2.2 * once


def test_a_window_costs_so_many_calls() -> None:
    nodes = 40
    assert calls(command(nodes)) / (nodes * WINDOWS) < 225
    assert calls(check(nodes)) / (nodes * WINDOWS) < 75


def test_an_open_window_costs_so_many_bytes() -> None:
    """Of many nodes each window is out of the processor's cache whenever something is told of it."""
    nodes, windows = 40, 30
    entries = [each for each in ledger.entries(nodes, windows) if not each.key.startswith(b"flowlog")]
    books = Reconciler(Audit().of)
    costs = []
    tracemalloc.start()
    try:
        for entry in entries:
            books.take(read_ledger(entry.value, entry.key, entry.partition))
            if entry.key.startswith(b"metrics"):
                costs.append((tracemalloc.get_traced_memory()[0], len(books)))
    finally:
        tracemalloc.stop()
    # What is kept of the nodes themselves is there after some windows of each.
    (early, few), (late, many) = costs[len(costs) // 2], costs[-1]
    assert (late - early) / (many - few) < 1_250


# What is said of `--max-open-windows`, by a hundredth of the nodes.
PART = 100
LARGE = 5_000 // PART


@pytest.mark.parametrize(("most", "holds"), [(AuditServiceSettings().max_open_windows // PART, True), (1_000, False)])
def test_5000_nodes_whose_flow_log_is_cut_after_five_minutes_have_room(most: int, holds: bool) -> None:
    """All partitions are cut at the same time, and the audit has just started: it reads as fast as it can."""
    windows, cut = 80, FlowlogSettings().cut_seconds * 1000 / ledger.WINDOW_MS
    assert ledger.cut_windows(LARGE) == cut
    rolling = Rolling(AuditServiceSettings().span_minutes * 60_000)
    rolling.move(ledger.START_MS + windows * ledger.WINDOW_MS)
    books = Reconciler(rolling.sums_of, rolling.wants)
    given_up, margin_ms = 0, int(AuditServiceSettings().settle_seconds * 1000)
    for number, entry in enumerate(ledger.entries(LARGE, windows, partitions=1)):
        books.take(read_ledger(entry.value, entry.key, entry.partition))
        if number % 20 == 0:
            given_up += len(books.bound(margin_ms, most))
            assert len(books) <= most
    assert (given_up == 0) is holds
