# SPDX-License-Identifier: Apache-2.0
"""What the audit's service serves: gauges over the last minutes, by cluster, and counters of its own doings."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.registry import Collector

from audit.books import Reconciler
from audit.known import OTHER
from audit.result import covered, unmeasured_ms
from audit.rolling import Recent

_STATES = ("closed", "open", "late", "in_flight")


class AuditMetrics(Collector):
    """All of them, in one registry.

    Gauges are served as of one check: a page is rendered in a thread of its own, and would otherwise have some of one
    check and some of the next, or none of them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"zonemeter_audit_{name}", text, labels, registry=registry)

        self._figures = _Figures()
        registry.register(self)
        self.lag = Gauge(
            "zonemeter_audit_lag_records", "Records of the ledger that are not taken yet.", (), registry=registry
        )
        self.refused = counter("refused_records", "Records of ledger or topology not understood.", "reason")
        self.given_up = counter("given_up_windows", "Windows that left the span, or memory, without closing.")

    def collect(self) -> Iterable[Metric]:
        """Return the gauges of the last check."""
        return self._figures.registry.collect()

    def show(self, recent: Mapping[str, Recent], books: Reconciler, nodes: Mapping[str, Iterable[str]]) -> None:
        """Serve the last minutes; `nodes` are those of each cluster whose topology is known."""
        figures = _Figures()
        figures.fill(recent, books, nodes)
        self._figures = figures


class _Figures:
    """What one check came to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"zonemeter_audit_{name}", text, labels, registry=self.registry)

        self._ratio = gauge("ratio", "Accounted for / seen by the hook, over the span; 1 only if all is.", "cluster")
        self._seen = gauge("seen_bytes", "What the hook saw, over the span.", "cluster")
        self._unaccounted = gauge("unaccounted_bytes", "What a hop did not take, or took twice.", "cluster", "hop")
        self._late = gauge("late_bytes", "What a hop has not taken yet, beyond --settle-seconds.", "cluster", "hop")
        self._lost = gauge("lost_bytes", "What a hop lost for a reason, over the span.", "cluster", "hop", "reason")
        self._windows = gauge("windows", "Windows of the span, by state.", "cluster", "state")
        self._nodes = gauge("nodes", "Nodes metered in the span, and nodes in the cluster.", "cluster", "state")
        self._coverage = gauge("coverage_ratio", "Bytes at the hook / at the uplinks, at most 1.", "cluster", "way")
        self._gaps = gauge("gaps", "Holes in a node's windows, over the span.", "cluster")
        self._unmeasured = gauge("unmeasured_seconds", "Time of nodes that nobody metered.", "cluster")
        self._clock_steps = gauge("clock_steps", "Times that a node's clock was set, over the span.", "cluster")
        self._repeated = gauge("repeated_bytes", "Chunks that came again and were put aside.", "cluster")
        self._unannounced = gauge(
            "unannounced_repeat_bytes", "Of those, chunks that did not say that they might come again.", "cluster"
        )
        self._contradicted = gauge(
            "contradicted_entries", "Entries that came again and said something else; the first count.", "cluster"
        )
        self._interleaved = gauge("interleaved_nodes", "Nodes of which two boots go on side by side.", "cluster")
        self._foreign = gauge("foreign_source_bytes", "Sent, as a node says, from addresses of another.", "cluster")
        self._unmetered = gauge("unmetered_sender_bytes", "Received from nodes that closed no window.", "cluster")
        self._kept = gauge("kept_windows", "Windows kept in memory because they are not closed.")

    def fill(self, recent: Mapping[str, Recent], books: Reconciler, nodes: Mapping[str, Iterable[str]]) -> None:
        """Set them, once."""
        for cluster, of in recent.items():
            self._show_sums(cluster, of)
        for cluster in recent.keys() | nodes.keys():
            self._show_nodes(cluster, books, nodes)
        for cluster, of in recent.items():
            told = books.lives.metered(cluster) | {"?", OTHER}
            silent = (amount.bytes for node, amount in of.sums.senders.items() if node not in told)
            self._unmetered.labels(cluster).set(sum(silent))
        self._kept.set(len(books))

    def _show_sums(self, cluster: str, of: Recent) -> None:
        sums = of.sums
        if sums.seen.bytes:
            self._ratio.labels(cluster).set(sums.ratio)
        self._seen.labels(cluster).set(sums.seen.bytes)
        self._repeated.labels(cluster).set(sums.repeats.bytes)
        self._unannounced.labels(cluster).set(sums.unannounced.bytes)
        self._contradicted.labels(cluster).set(sums.contradictions)
        self._foreign.labels(cluster).set(sum(amount.bytes for amount in sums.foreign.values()))
        counts = (sums.windows - sums.open_windows, sums.open_windows, of.late_windows, of.in_flight)
        for state, count in zip(_STATES, counts, strict=True):
            self._windows.labels(cluster, state).set(count)
        for hop, total in sums.hops.items():
            self._unaccounted.labels(cluster, hop).set(sums.unaccounted.get(hop, 0))
            self._late.labels(cluster, hop).set(of.late.get(hop, 0))
            for reason, amount in total.lost.items():
                self._lost.labels(cluster, hop, reason).set(amount.bytes)
        for way, ratio in covered(sums.coverage.values()).items():
            self._coverage.labels(cluster, way).set(ratio)

    def _show_nodes(self, cluster: str, books: Reconciler, nodes: Mapping[str, Iterable[str]]) -> None:
        gaps = books.lives.gaps(cluster)
        self._nodes.labels(cluster, "metered").set(len(books.lives.metered(cluster)))
        if cluster in nodes:
            self._nodes.labels(cluster, "in_cluster").set(len(set(nodes[cluster])))
        self._gaps.labels(cluster).set(len(gaps))
        self._unmeasured.labels(cluster).set(unmeasured_ms(gaps) / 1000)
        self._clock_steps.labels(cluster).set(len(books.lives.clock_steps(cluster)))
        self._interleaved.labels(cluster).set(len(books.lives.interleaved(cluster)))
