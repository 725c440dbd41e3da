# SPDX-License-Identifier: Apache-2.0
"""What a window costs does not depend on how many nodes there are. Counted in calls, so it needs no clock."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from audit.books import Reconciler, conclude
from audit.metrics import AuditMetrics
from audit.result import Audit
from audit.rolling import Rolling
from bench import ledger
from schemas.ledger import read_ledger
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
    assert calls(command(nodes)) / (nodes * WINDOWS) < 330
    assert calls(check(nodes)) / (nodes * WINDOWS) < 105
