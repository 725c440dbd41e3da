# SPDX-License-Identifier: Apache-2.0
"""The collector's own metrics. Everything that moves has a counter, everything lost or put aside one with a reason."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.ledger import LedgerRecord


class CollectorMetrics:
    """Registered once for the service's registry."""

    def __init__(self, registry: CollectorRegistry, map_entries: int, spool_limit: int) -> None:
        self.windows = Counter("zonemeter_collector_windows", "Windows published and cleared.", registry=registry)
        self.rows = Counter("zonemeter_collector_rows", "Flows published.", registry=registry)
        self.hook_bytes = Counter(
            "zonemeter_collector_hook_bytes", "IP-layer bytes that the hook saw.", registry=registry
        )
        self.aside_bytes = Counter(
            "zonemeter_collector_aside_bytes", "Bytes put aside by design.", ["reason"], registry=registry
        )
        self.lost_bytes = Counter(
            "zonemeter_collector_lost_bytes", "Bytes seen and not kept.", ["reason"], registry=registry
        )
        self.lost_packets = Counter(
            "zonemeter_collector_lost_packets", "Packets seen and not kept.", ["reason"], registry=registry
        )
        self.unbalanced = Counter(
            "zonemeter_collector_unbalanced_windows",
            "Windows in which hook was not aside + map + lost; should be 0.",
            registry=registry,
        )
        self.retries = Counter(
            "zonemeter_collector_publish_retries", "Windows, or parts of one, sent again.", registry=registry
        )
        self.map_rows = Gauge("zonemeter_collector_map_rows", "Flows in the last window.", registry=registry)
        self.map_entries = Gauge("zonemeter_collector_map_entries", "Flows a window has room for.", registry=registry)
        self.lag = Gauge(
            "zonemeter_collector_window_lag_seconds", "From the last window's end to its last ack.", registry=registry
        )
        self.spooled = Counter(
            "zonemeter_collector_spooled_windows", "Windows written to the spool.", registry=registry
        )
        self.spool_failures = Counter(
            "zonemeter_collector_spool_failures", "Tries to spool a window that failed: it grew.", registry=registry
        )
        self.spool_damaged = Counter(
            "zonemeter_collector_spool_damaged_files", "Spooled windows that could not be read.", registry=registry
        )
        self.spool_windows = Gauge("zonemeter_collector_spool_windows", "Windows in the spool.", registry=registry)
        self.spool_bytes = Gauge("zonemeter_collector_spool_bytes", "Bytes of the spool's files.", registry=registry)
        self.spool_limit = Gauge("zonemeter_collector_spool_limit_bytes", "What they may be.", registry=registry)
        self.spool_usable = Gauge(
            "zonemeter_collector_spool_usable", "1 if the disk took the last window, or may.", registry=registry
        )
        self.coverage = Gauge(
            "zonemeter_collector_coverage_ratio",
            "Bytes the hook saw / bytes the uplinks counted, at most 1, in the last window of more than 1 MB.",
            ["way"],
            registry=registry,
        )
        self.removed = Counter(
            "zonemeter_collector_removed",
            "Pins, and attachments that count, which somebody removed and the collector put back.",
            ["what"],
            registry=registry,
        )
        self.uplinks = Gauge("zonemeter_collector_uplinks", "Devices taken for uplinks.", registry=registry)
        for what in ("pin", "attachment"):
            self.removed.labels(what)
        self.map_entries.set(map_entries)
        self.spool_limit.set(spool_limit)

    def published(self, entry: LedgerRecord) -> None:
        """Note a published window by its entry in the ledger."""
        self.windows.inc()
        self.rows.inc(entry.given.rows)
        self.map_rows.set(entry.given.rows)
        self.hook_bytes.inc(entry.taken.bytes)
        for reason, amount in entry.aside.items():
            self.aside_bytes.labels(reason).inc(amount.bytes)
        for reason, amount in entry.lost.items():
            self.lost_bytes.labels(reason).inc(amount.bytes)
            self.lost_packets.labels(reason).inc(amount.packets)
        if entry.balance() is not None:
            self.unbalanced.inc()
        self.lag.set(max(time.time() - entry.end_ms / 1000, 0.0))
