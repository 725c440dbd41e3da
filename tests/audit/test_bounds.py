# SPDX-License-Identifier: Apache-2.0
"""Whoever may write to the ledger may make up clusters, nodes, sinks and reasons: work stays linear, memory bounded."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from audit import books as books_
from audit.books import MAX_SINKS, Reconciler
from audit.known import OTHER, Admitted
from audit.metrics import AuditMetrics
from audit.rolling import Rolling
from schemas import ids
from schemas.errors import DecodeError
from schemas.ids import Origin, chunk_id
from schemas.ledger import LedgerRecord
from schemas.raw import MAX_CHUNKS
from tests.support.builders import END_MS, ORIGIN, amount, collector_entry, enricher_entry, sink_entry
from tests.support.counted import lines

NOW_MS = END_MS + 60_000


class Service:
    """What the service does, without Kafka."""

    def __init__(
        self, max_clusters: int = 100, max_strangers: int = 2_000, nodes: frozenset[str] = frozenset()
    ) -> None:
        self.rolling = Rolling(3_600_000)
        self.rolling.move(NOW_MS)
        known = Admitted(max_clusters, max_strangers, ORIGIN.cluster, nodes.__contains__)
        self.books = Reconciler(self.rolling.sums_of, self.rolling.wants, known=known)
        self.registry = CollectorRegistry()
        self.metrics = AuditMetrics(self.registry)

    def work(self, records: list[LedgerRecord]) -> None:
        for record in records:
            self.books.take(record)
        self.books.trim(0, 10)
        list(self.books.expire(self.rolling.floor_ms))
        self.metrics.show(self.rolling.recent(self.books, NOW_MS), self.books, {})

    def shown(self) -> dict[str, float]:
        """Return the values of `_other_`, by name and further labels."""
        return {
            "/".join([sample.name.removeprefix("zonemeter_audit_"), *list(sample.labels.values())[1:]]): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.labels.get("cluster") == OTHER
        }

    def exported(self) -> int:
        return len(generate_latest(self.registry))


def origins(count: int) -> Iterator[Origin]:
    return (Origin(f"cluster-{number}", f"node-{number}", ORIGIN.boot_id) for number in range(count))


def clusters(count: int) -> list[LedgerRecord]:
    return [collector_entry(0, 100, origin) for origin in origins(count)]


def nodes(count: int) -> list[LedgerRecord]:
    return [collector_entry(0, 100, Origin("lab", origin.node, "0" * 12)) for origin in origins(count)]


def boots(count: int) -> list[LedgerRecord]:
    return [collector_entry(n % 3, 100, Origin("lab", "node-a1", f"{n:012x}")) for n in range(count)]


def parts_first(count: int) -> list[LedgerRecord]:
    """Entries of sinks open windows of which the collector's come later."""
    early = [sink_entry("metrics", n, {0: 1}, origin) for n, origin in enumerate(origins(count))]
    return [*early, *(collector_entry(1, 100, origin) for origin in origins(count))]


def senders(count: int) -> list[LedgerRecord]:
    named = {origin.node: amount(1) for origin in origins(count)}
    return [collector_entry(0, 100), enricher_entry(0, 100, senders=named, foreign_source=named)]


def gaps(count: int) -> list[LedgerRecord]:
    return [collector_entry(2 * number, 0, chunks=0) for number in range(count)]


def large_windows(count: int) -> list[LedgerRecord]:
    return [collector_entry(number, 100, chunks=MAX_CHUNKS) for number in range(count // 10)]


@pytest.mark.parametrize("attack", [clusters, nodes, boots, parts_first, senders, gaps, large_windows])
def test_twice_as_much_is_twice_the_work(attack: Callable[[int], list[LedgerRecord]]) -> None:
    once, twice = (lines(lambda: Service(10_000, 10_000).work(attack(count))) for count in (150, 300))  # noqa: B023
    assert twice <= 2.2 * once


def test_when_a_window_was_is_known_without_a_look_at_its_chunks() -> None:
    def work(chunks: int) -> int:
        books = Service().books
        parts = {chunk_id(ORIGIN, 1, 0, number): amount(1) for number in range(chunks)}
        books.take(replace(sink_entry("metrics", 1, {0: 1}), parts=parts))
        (window,) = books.oldest(1)
        return lines(lambda: (window.start_ms, window.end_ms))

    assert work(10) == work(1_000)


def test_clusters_without_end_are_one_that_is_not_accounted_for() -> None:
    service = Service(max_clusters=10)
    service.work([*clusters(1_000), collector_entry(0, 100), enricher_entry(0, 100)])
    shown = service.shown()
    assert shown["seen_bytes"] == shown["unaccounted_bytes/collector"] == 99_000
    assert shown["ratio"] == 0
    assert len({origin.cluster for origin in service.books.lives.origins()}) == 11
    assert service.exported() < 50_000


def test_nodes_of_the_cluster_find_room_whatever_names_are_made_up() -> None:
    service = Service(max_strangers=10, nodes=frozenset({"node-true"}))
    true = Origin("lab", "node-true", ORIGIN.boot_id)
    service.work([*nodes(100), collector_entry(0, 700, true), enricher_entry(0, 700, true)])
    assert "node-true" in service.books.lives.metered("lab")
    assert len(service.books.lives.metered("lab")) == 11
    assert service.shown()["seen_bytes"] == 9_000
    # Whose windows left the span makes room.
    service.rolling.move(NOW_MS + 7_200_000)
    list(service.books.expire(service.rolling.floor_ms))
    assert service.books.lives.metered("lab") == set()
    fresh = Origin("lab", "node-fresh", ORIGIN.boot_id)
    service.books.take(collector_entry(720, 100, fresh))
    assert service.books.lives.metered("lab") == {"node-fresh"}


def test_sinks_without_end_are_refused() -> None:
    service = Service()
    entry = sink_entry("flowlog", 1, {0: 100})
    for number in range(MAX_SINKS):
        service.books.take(replace(entry, id=f"group-{number}/0-1"))
    with pytest.raises(DecodeError, match="too_many_names"):
        service.books.take(replace(entry, id="one-more/0-1"))
    service.books.take(replace(entry, id="group-3/0-2"))


def test_memory_is_bounded_whatever_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.boots.MAX_TOLD", 200)
    monkeypatch.setattr(books_, "MAX_CLOSED", 200)
    monkeypatch.setattr("audit.life.MAX_SAID", 200)
    monkeypatch.setattr("audit.rolling.MAX_NAMES", 200)

    def cost(count: int) -> int:
        tracemalloc.start()
        try:
            service = Service(max_clusters=10, max_strangers=10)
            # A piece at a time, as they come.
            for begin in range(0, count, 500):
                piece = [
                    *clusters(500),
                    *(collector_entry(2 * n, 0, chunks=0) for n in range(begin, begin + 500) if 20_000 * n < 3_600_000),
                    *(
                        collector_entry(
                            0, 0, Origin("lab", "n", "0" * 12), id=f"lab/n/{'0' * 12}/{n}/{7 * n}", chunks=0
                        )
                        for n in range(begin, begin + 500)
                    ),
                    enricher_entry(0, 100, senders={f"s{n}": amount(1) for n in range(begin, begin + 500)}),
                ]
                service.work(piece)
            del piece
            ids._remembered.cache_clear()  # as large as it says, in every process
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    cost(500)
    assert cost(4_000) < 1.5 * cost(2_000)
