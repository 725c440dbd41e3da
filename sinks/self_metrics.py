# SPDX-License-Identifier: Apache-2.0
"""What a sink says of itself. These begin at 0 with every start; what it serves or writes does not."""

import logging
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sinks.intake import Batch

log = logging.getLogger(__name__)

DURATION_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class SelfMetrics:
    """Counters and gauges that every sink has; `step` names what makes a sink's intake durable."""

    def __init__(self, registry: CollectorRegistry, step: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"zonemeter_{name}", text, labels, registry=registry)

        self.lag = Gauge(
            "zonemeter_lag_records",
            "Records of the enriched topic that are not taken yet.",
            ["partition"],
            registry=registry,
        )
        self.taken = counter("flows_taken", "Flows taken for the first time.")
        self.repeats = counter("flows_repeated", "Flows left out because they were taken before.")
        self.renumbered = counter(
            "chunks_renumbered", "Chunks taken though numbered below the one before, because they are of a later time."
        )
        self.refused = counter(
            "records_refused", "Records that could not be decoded and went to the dead-letter topic.", "reason"
        )
        self.missed = counter("records_missed", "Records that the topic's retention deleted before they were read.")
        self.durable_seconds = Histogram(
            f"zonemeter_{step}_duration_seconds",
            f"Time that a {step} took on the disk.",
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.failures = Counter(
            f"zonemeter_{step}_failures",
            f"Times that a {step} could not be written and was tried again.",
            registry=registry,
        )

    def count(self, partition: int, batch: Batch[Any]) -> None:
        """Count what one batch of records of a partition came to."""
        self.repeats.inc(batch.repeats)
        self.renumbered.inc(batch.renumbered)
        for refused in batch.refused:
            self.refused.labels(refused.reason).inc()
        if batch.missed:
            self.missed.inc(batch.missed)
            log.error("records deleted before they were read", extra={"partition": partition, "records": batch.missed})
        # Last, and rendered first: a page that has the flows of a batch has all else of it.
        self.taken.inc(len(batch.rows))
