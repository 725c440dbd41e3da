# SPDX-License-Identifier: Apache-2.0
"""The collector's own metrics. Everything that moves has a counter, everything lost or put aside one with a reason."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.ledger import LedgerRecord


class CollectorMetrics:
    """Registered once for the service's registry."""

    def __init__(self, registry: CollectorRegistry, map_entries: int, spool_limit: int) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"zonemeter_collector_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"zonemeter_collector_{name}", text, labels, registry=registry)

        self.windows = counter("windows", "Windows published and cleared.")
        self.rows = counter("rows", "Flows published.")
        self.hook_bytes = counter("hook_bytes", "IP-layer bytes that the hook saw.")
        self.aside_bytes = counter("aside_bytes", "Bytes put aside by design.", "reason")
        self.lost_bytes = counter("lost_bytes", "Bytes seen and not kept.", "reason")
        self.lost_packets = counter("lost_packets", "Packets seen and not kept.", "reason")
        self.unbalanced = counter(
            "unbalanced_windows", "Windows in which hook was not aside + map + lost; should be 0."
        )
        self.retries = counter("publish_retries", "Windows, or parts of one, sent again.")
        self.map_rows = gauge("map_rows", "Flows in the last window.")
        self.map_entries = gauge("map_entries", "Flows a window has room for.")
        self.lag = gauge("window_lag_seconds", "From the last window's end to its last ack.")
        self.spooled = counter("spooled_windows", "Windows written to the spool.")
        self.spool_failures = counter("spool_failures", "Tries to spool a window that failed: it grew.")
        self.spool_damaged = counter("spool_damaged_files", "Spooled windows that could not be read.")
        self.spool_windows = gauge("spool_windows", "Windows in the spool.")
        self.spool_bytes = gauge("spool_bytes", "Bytes of the spool's files.")
        self.spool_limit = gauge("spool_limit_bytes", "What they may be.")
        self.spool_usable = gauge("spool_usable", "1 if the disk took the last window, or may.")
        self.coverage = gauge(
            "coverage_ratio",
            "Bytes the hook saw / bytes the uplinks counted, at most 1, in the last window of more than 1 MB.",
            "way",
        )
        self.removed = counter(
            "removed", "Pins, and attachments that count, which somebody removed and the collector put back.", "what"
        )
        self.uplinks = gauge("uplinks", "Devices taken for uplinks.")
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
