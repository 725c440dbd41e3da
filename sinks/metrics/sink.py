# SPDX-License-Identifier: Apache-2.0
"""Flows as Prometheus counters: a cut is a checkpoint of them, and they are served once that is durable."""

import copy
import sqlite3
from collections.abc import Sequence

from prometheus_client import Gauge

from common.clock import now_ms
from common.service.running import Service
from prices.book import PriceBook
from schemas.ledger import Hop, LedgerRecord
from sinks.intake import Batch, Lane
from sinks.metrics.aggregate import DELAYED_MS, Aggregate
from sinks.metrics.checkpoint import Checkpoint, State
from sinks.metrics.ends import End
from sinks.metrics.exposition import Exposition
from sinks.metrics.settings import MetricsSettings
from sinks.sink import Cut, Sink


class MetricsSink(Sink[End, Checkpoint]):
    """One replica's counters, as the last checkpoint holds them; served from now on."""

    hop: Hop = "metrics"
    part = "state"
    step = "checkpoint"

    def __init__(
        self, service: Service, settings: MetricsSettings, state: State, prices: PriceBook | None = None
    ) -> None:
        super().__init__(f"state_dir = '{settings.state_dir}'", settings.checkpoint_seconds)
        self._state = state
        self._series = Gauge("zonemeter_series", "Series served, by family.", ["family"], registry=service.registry)
        self._aggregate = Aggregate(
            settings.max_series,
            settings.kubezonnet_max_series if settings.kubezonnet_metric else None,
            prices,
            int(settings.series_idle_hours * 3_600_000),
            settings.opencost_max_series or None,
        )
        if prices is not None:
            _show_prices(service, prices)
        specs = [family.spec for family in self._aggregate.families.values()]
        self._exposition = Exposition(specs, int(settings.silent_after_seconds * 1000))
        restored = state.load()
        for sample in restored.series:
            self._aggregate.restore(sample)
        for lane in restored.lanes.values():
            lane.believe(now_ms())
        marks = [item for lane in restored.lanes.values() for item in lane.marks.items()]
        self._exposition.apply(restored.series, marks)
        self._lanes = restored.lanes
        self._name = f"{settings.replica_ordinal}/{restored.life}"
        self._sequence = restored.sequence
        # Of each partition the last; `recover` gives away those that may not have been published.
        self._ledger = self._restored = restored.ledger
        self._due = 0.0

    def render(self) -> bytes:
        """Return what it serves (Prometheus text format): of all flows that are in a checkpoint. For any thread."""
        return self._exposition.render(now_ms())

    def recover(self, partitions: Sequence[int]) -> tuple[list[Lane], list[LedgerRecord]]:
        """Return the lanes as they are: what was added to the counters cannot be taken out of them."""
        entries, self._restored = self._restored, []
        return [self._lanes.setdefault(partition, Lane(partition)) for partition in partitions], entries

    def add(self, lane: Lane, batch: Batch[End]) -> None:
        """Count flows."""
        self._aggregate.add(batch.rows, lane.books)
        # Looked at flow by flow only where something is delayed, which is hardly ever.
        now = now_ms()
        if lane.books.start_ms is not None and lane.books.start_ms < now - DELAYED_MS:
            self._aggregate.note_delayed(batch.rows, now)

    def due(self, lanes: Sequence[Lane], now: float) -> Sequence[Lane]:
        """Return all; flows that come after a silence are served at once."""
        if now < self._due:
            return ()
        self._due = now + self._hold_seconds
        return lanes

    def cut(self, lanes: Sequence[Lane], now_ms: int) -> list[Cut[Checkpoint]]:
        """Take together what changed since the last checkpoint; the next one begins with empty books."""
        self._sequence += 1
        changes = self._aggregate.fold(now_ms)
        checkpoint = Checkpoint(self._sequence, changes.samples, removed=changes.removed)
        fresh = []
        for lane in lanes:
            checkpoint.positions[lane.partition] = lane.durable_position or 0
            checkpoint.dropped += [(lane.partition, origin) for origin in lane.forget_old_marks(now_ms)]
            touched = [(origin, lane.marks[origin]) for origin in lane.touched if origin in lane.marks]
            checkpoint.marks += [(lane.partition, origin, copy.copy(mark)) for origin, mark in touched]
            fresh += lane.close(self.hop, f"{self._name}/{self._sequence}", now_ms)
        kept = [entry for entry in self._ledger if entry.partition not in checkpoint.positions]
        self._ledger = checkpoint.ledger = [*kept, *fresh]
        return [Cut(checkpoint.positions, fresh, checkpoint)]

    def write(self, content: Checkpoint) -> None:
        """Write a checkpoint, then serve it."""
        try:
            self._state.commit(content)
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        self._exposition.apply(content.series, [(origin, mark) for _, origin, mark in content.marks], content.removed)
        for family, number in self._exposition.series_counts().items():
            self._series.labels(family).set(number)


def _show_prices(service: Service, prices: PriceBook) -> None:
    info = Gauge(
        "zonemeter_prices_info",
        "1; the price file in force and the day its prices are of as labels.",
        ["file", "title", "as_of", "unit"],
        registry=service.registry,
    )
    info.labels(prices.name, prices.title, str(prices.as_of), prices.unit).set(1)
