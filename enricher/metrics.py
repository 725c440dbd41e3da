# SPDX-License-Identifier: Apache-2.0
"""The enricher's own metrics: what came in, what went out, what was put aside and why, and how fresh the index is."""

import functools
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.ready import Ready
from enricher.join.join import Joined
from schemas.amount import Amount
from schemas.ledger import UNANNOUNCED_REPEAT
from schemas.raw import RawChunk


class GivenOut(NamedTuple):
    """A chunk that is given out, counted once its flows are in Kafka; `waited`: for the index."""

    chunk: RawChunk
    joined: Joined
    waited: bool


class EnricherMetrics:
    """All of them, in one registry."""

    def __init__(self, registry: CollectorRegistry, index: Index) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"zonemeter_enricher_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"zonemeter_enricher_{name}", text, labels, registry=registry)

        self.chunks = counter("chunks", "Raw chunks, by what became of them: enriched, repeat, dead_letter.", "result")
        self.raw_bytes = counter("raw_bytes", "Traffic bytes in the raw chunks taken in.")
        self.raw_flows = counter("raw_flows", "Rows in the raw chunks taken in.")
        self.bytes = counter(
            "bytes", "Traffic bytes given out, by scope; encapsulation: outer packets of overlays.", "scope"
        )
        self.flows = counter("flows", "Flows given out, by scope; encapsulation: outer packets of overlays.", "scope")
        self.aside_bytes = counter("aside_bytes", "Traffic bytes put aside, by reason.", "reason")
        self._node_bytes = counter(
            "node_bytes",
            "Traffic bytes received from each node of the cluster, by the side that counts them: sender, receiver.",
            *("node", "counted_by"),
        )
        self._node_window = gauge("node_window_end_seconds", "End of the last window that a node published.", "node")
        self.cidr_bytes = counter("cidr_bytes", "Traffic bytes given out that an entry of the CIDR map named.", *_RULE)
        self.rolled_up = counter("rolled_up_flows", "Rows summed up into fewer flows (--detail workload).")
        self._contradicted = counter(
            "contradicted_chunks", "Raw chunks of nodes that --unmetered-nodes says have no collector.", "node"
        )
        self._foreign_source = counter(
            "foreign_source_bytes", "Traffic bytes that a node says it sent from another node's addresses.", "node"
        )
        # Asked for with each chunk, and by few labels: prometheus_client's own look-up takes longer than the rest.
        self._chunks, self._bytes, self._flows, self._aside_bytes = (
            functools.cache(each.labels) for each in (self.chunks, self.bytes, self.flows, self.aside_bytes)
        )
        self.unknown_bytes = counter("unknown_bytes", "Traffic bytes of unknown scope, by reason.", "reason")
        self.late_bytes = counter("late_bytes", "Traffic bytes given out with an end that never became known in time.")
        self.late_flows = counter("late_flows", "Flows given out with an end that never became known in time.")
        self.unannounced = counter(
            "unannounced_repeats", "Raw chunks that came again and did not say that they might: two wrote them."
        )
        self.renumbered = counter(
            "renumbered_chunks",
            "Raw chunks numbered below the one before though of a later time: somebody made one up.",
        )
        self.foreign_output = counter(
            "foreign_output_chunks",
            "Raw chunks of which flows were out already that do not fit them: not an enricher's.",
        )
        self.freshness = Histogram(
            "zonemeter_enricher_freshness_seconds",
            "From a window's end to its flows being in Kafka, by whether the chunk waited for the index.",
            ["waited"],
            registry=registry,
            buckets=_FRESHNESS_SECONDS,
        )
        self._freshness = functools.cache(lambda waited: self.freshness.labels("yes" if waited else "no"))
        self.dead_letters = counter("dead_letters", "Raw records that could not be decoded, by reason.", "reason")
        self.gap_records = counter("raw_gap_records", "Raw records that were gone before they were read.")
        self.clamped = counter("clamped_timestamps", "Records whose time was too far ahead for Kafka, and was cut.")
        self.waits = counter("index_waits", "Chunks that waited for the index, by outcome: known, late.", "outcome")
        self.lag_records = gauge("lag_records", "Raw records not taken in yet.", "partition")
        self.behind = gauge("behind_seconds", "Age of the last window taken in, at its end.", "partition")
        self.watch_failures = counter("kube_failures", "Failures of list or watch, by resource and reason.", *_KUBE)
        self.relists = counter("kube_lists", "Lists completed, the first one too.", "resource")
        self._left_out = counter(
            "kube_left_out",
            "Times that the API showed what no object can have, and it was left out: owner, address, "
            "provider_id, routing, selector, labels, end_points, services.",
            "what",
        )
        self._unheard = counter(
            "node_addresses_left_out",
            "Times that a chunk said more of its node's own addresses than is believed: addresses, change.",
            "what",
        )
        self._watch_age = gauge("kube_silence_seconds", "Time since anything was heard of a resource.", "resource")
        self.topology_writes = counter("topology_writes", "States written to the topology topic.")
        self.topology_tombstones = counter(
            "topology_tombstones", "States taken off the topology topic, ended long ago."
        )
        self.index_evicted = counter("index_evicted", "States forgotten before their time, for lack of room.")
        self.topology_refused = counter("topology_refused", "Records of the topology topic not understood.", "reason")
        self._ready = gauge("ready_pods", "Ready pods of each workload that is or was in several zones.", *_PLACE)
        self._ready_left_out = gauge("ready_pods_left_out", "Workloads in several zones beyond those shown.")
        self._places: dict[tuple[str, ...], int] = {}
        gauge("index_states", "States of objects in the index.").set_function(lambda: index.states)
        gauge("index_slots", "Addresses, node names and podCIDRs in the index.").set_function(lambda: index.slots)
        self._rules: dict[str, Counter] = {}
        self._of_nodes = NodeSeries()
        self._heard: dict[str, float] = {}

    def heard(self, resource: str) -> None:
        """Note that the API said something about a resource."""
        is_first = resource not in self._heard
        self._heard[resource] = time.monotonic()  # before the gauge is there: a page is rendered in another thread
        if is_first:
            self._watch_age.labels(resource).set_function(lambda: time.monotonic() - self._heard[resource])

    def left_out(self, what: str) -> None:
        """Count what the API showed and no object can have."""
        self._left_out.labels(what).inc()

    def unheard(self, what: str) -> None:
        """Count what a node said of its own addresses beyond what is believed."""
        self._unheard.labels(what).inc()

    def showing(self, ready: Ready) -> Generator[None, None, None]:
        """Show where ready pods are, place by place; what is not there any more leaves."""
        for place in self._places.keys() - ready.pods.keys():
            self._ready.remove(*place)
            del self._places[place]
            yield
        for place, count in ready.pods.items():
            if self._places.get(place) != count:
                self._ready.labels(*place).set(count)
                self._places[place] = count
                yield
        self._ready_left_out.set(ready.left_out)

    def expect(self, cidrs: CidrMap) -> None:
        """Show every entry of the map from the start, so that one which never matches is seen: it stays 0.

        Not those that only name something on the internet: a cloud publishes ten thousand.
        """
        for entry in (each for each in cidrs.entries if not each.external):
            self._rules[entry.cidr] = self.cidr_bytes.labels(entry.cidr, entry.name)

    def given_out(self, chunks: Sequence[GivenOut], now_ms: int) -> None:
        """Count chunks whose flows are in Kafka now: all together, since each addition to a series takes a lock."""
        sums: defaultdict[Counter, int] = defaultdict(int)
        for chunk, joined, waited in chunks:
            self._freshness(waited).observe(max(now_ms - chunk.end_ms, 0) / 1000)
            self._add(chunk.node, joined, sums)
        for node, end_ms in {chunk.node: chunk.end_ms for chunk, _, _ in chunks}.items():
            self._of_nodes.labels(self._node_window, node).set(end_ms / 1000)
        for series, amount in sums.items():
            series.inc(amount)
        # Last, and rendered first: a page that has a chunk has all that was counted of it.
        self._chunks("enriched").inc(len(chunks))

    def _add(self, observer: str, joined: Joined, sums: defaultdict[Counter, int]) -> None:
        of_node = self._of_nodes.labels
        for counted_by, nodes in (("sender", joined.senders), ("receiver", joined.unmetered)):
            for node, amount in nodes.items():
                sums[of_node(self._node_bytes, node, counted_by)] += amount.bytes
        for amount in joined.foreign_source.values():
            sums[of_node(self._foreign_source, observer)] += amount.bytes
        for rule, amount in joined.by_rule.items():
            sums[self._rules[rule]] += amount.bytes
        for scope, amount in joined.by_scope.items():
            sums[self._bytes(scope)] += amount.bytes
            sums[self._flows(scope)] += amount.rows
        for reason, amount in joined.by_reason.items():
            sums[self.unknown_bytes.labels(reason)] += amount.bytes
        for reason, amount in joined.aside.items():
            sums[self._aside_bytes(reason)] += amount.bytes
        sums[self.rolled_up] += joined.rolled_up.rows
        sums[self.raw_bytes] += joined.taken.bytes
        sums[self.raw_flows] += joined.taken.rows
        sums[self.late_bytes] += joined.late.bytes
        sums[self.late_flows] += joined.late.rows

    def contradicted(self, node: str) -> None:
        """Count one chunk of a node that --unmetered-nodes says has no collector."""
        self._of_nodes.labels(self._contradicted, node).inc()

    def repeated(self, taken: Amount, *, announced: bool) -> None:
        """Count one chunk that had come before, and whether it said that it might have."""
        self.chunks.labels("repeat").inc()
        self.raw_bytes.inc(taken.bytes)
        self.raw_flows.inc(taken.rows)
        self.aside_bytes.labels("repeat" if announced else UNANNOUNCED_REPEAT).inc(taken.bytes)
        if not announced:
            self.unannounced.inc()

    def refused(self, reason: str) -> None:
        """Count one record that could not be decoded."""
        self.chunks.labels("dead_letter").inc()
        self.dead_letters.labels(reason).inc()


Family = TypeVar("Family", Counter, Gauge)


class NodeSeries:
    """The series with a label `node`: those of nodes not heard of for a day leave, and of too many the oldest."""

    def __init__(self) -> None:
        # In the order in which they were heard of last, by the monotonic clock in seconds.
        self._heard: dict[str, float] = {}
        # Kept by node: a chunk names its own and each that sent to it, and prometheus_client's look-up takes a lock.
        self._series: dict[str, dict[tuple[Any, ...], Any]] = {}

    def labels(self, family: Family, node: str, *rest: str) -> Family:
        """Return a series of a node, and note that it was heard of now; `rest` are the values of its other labels."""
        now = time.monotonic()
        self._heard.pop(node, None)
        self._heard[node] = now
        while len(self._heard) > MAX_NODES or self._oldest() < now - NODE_KEPT_SECONDS:
            self._forget(next(iter(self._heard)))
        of_node = self._series.setdefault(node, {})
        found: Family | None = of_node.get((family, *rest))
        if found is None:
            found = of_node[family, *rest] = family.labels(node, *rest)
        return found

    def _oldest(self) -> float:
        return next(iter(self._heard.values()))

    def _forget(self, node: str) -> None:
        del self._heard[node]
        for family, *rest in self._series.pop(node):
            family.remove(node, *rest)


MAX_NODES = 10_000
NODE_KEPT_SECONDS = 86_400.0
# Dense up to what is promised (2 s, and 4 s where a chunk waits); the rest tells a moment's lag from an hour's.
_FRESHNESS_SECONDS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 6, 10, 30, 60, 300, 3600)
_KUBE = ("resource", "reason")
_RULE = ("cidr", "name")
_PLACE = ("workload_namespace", "workload_kind", "workload", "zone")
