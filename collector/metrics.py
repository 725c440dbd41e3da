# SPDX-License-Identifier: Apache-2.0
"""The collector's own metrics. Everything that moves has a counter, everything lost or put aside one with a reason."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.raw import WindowLedger


class Metrics:
    """Registered once for the service's registry."""

    def __init__(self, registry: CollectorRegistry, map_entries: int) -> None:
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
        self.uplinks = Gauge("zonemeter_collector_uplinks", "Devices taken for uplinks.", registry=registry)
        self.map_entries.set(map_entries)

    def published(self, books: WindowLedger, lag_seconds: float) -> None:
        """Note a published window."""
        self.windows.inc()
        self.rows.inc(books.map.rows)
        self.map_rows.set(books.map.rows)
        self.hook_bytes.inc(books.hook.bytes)
        for reason, amount in books.aside.items():
            self.aside_bytes.labels(reason).inc(amount.bytes)
        for reason, amount in books.lost.items():
            self.lost_bytes.labels(reason).inc(amount.bytes)
        self.lag.set(max(lag_seconds, 0.0))
