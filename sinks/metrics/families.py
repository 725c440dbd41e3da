# SPDX-License-Identifier: Apache-2.0
"""The metric families, and the budget of series that a family may have. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field

from common.prices import SUBUNIT_DIGITS

# A series' number, family, labels and value at one moment.
Sample = tuple[int, str, tuple[str, ...], int]

# What stands in place of a label's value where a series beyond the budget is folded.
OTHER = "_other_"


@dataclass(frozen=True, slots=True)
class Spec:
    """One counter family. `folded`: the labels that become `_other_` beyond the budget; none: never capped.

    `digits`: values are kept as whole numbers of 10^-digits of what is shown, so that money adds up exactly.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    folded: tuple[str, ...] = ()
    digits: int = 0


ZONE_LABELS = ("cluster", "src_zone", "dst_zone", "scope")
WORKLOAD_FOLDED = (
    "src_namespace",
    "src_workload_kind",
    "src_workload",
    "dst_namespace",
    "dst_workload_kind",
    "dst_workload",
)

ZONE_BYTES = Spec("zonemeter_zone_bytes_total", "IP-layer bytes sent, by zone pair; exact, never capped.", ZONE_LABELS)
ZONE_PACKETS = Spec("zonemeter_zone_packets_total", "Packets sent, by zone pair; exact, never capped.", ZONE_LABELS)
WORKLOAD_BYTES = Spec(
    "zonemeter_workload_bytes_total",
    "IP-layer bytes sent, by pair of workloads; pairs beyond the series budget are added up in _other_.",
    (
        "cluster",
        "src_namespace",
        "src_workload_kind",
        "src_workload",
        "src_zone",
        "dst_namespace",
        "dst_workload_kind",
        "dst_workload",
        "dst_zone",
        "scope",
    ),
    WORKLOAD_FOLDED,
)
ZONE_COST = Spec(
    "zonemeter_zone_cost_usd_total",
    "List price in USD of what was sent, both sides together, by zone pair; at the price in force when it was counted.",
    ZONE_LABELS,
    digits=SUBUNIT_DIGITS,
)
WORKLOAD_COST = Spec(
    "zonemeter_workload_cost_usd_total",
    "List price in USD of what was sent, both sides together, by pair of workloads; what is free is not here.",
    WORKLOAD_BYTES.labels,
    WORKLOAD_FOLDED,
    digits=SUBUNIT_DIGITS,
)
UNKNOWN_BYTES = Spec(
    "zonemeter_unknown_bytes_total", "IP-layer bytes of scope unknown, by why it is not known.", ("cluster", "reason")
)
ENCAPSULATION_BYTES = Spec(
    "zonemeter_encapsulation_bytes_total",
    "IP-layer bytes of the outer packets of overlays, which no other metric counts, by pair of nodes.",
    ("cluster", "src_node", "dst_node", "encapsulation"),
    ("src_node", "dst_node"),
)
KUBEZONNET_BYTES = Spec(
    "pod_cross_zone_network_traffic_bytes_total",
    "IP-layer bytes that a pod sent to another zone, as kubezonnet names it; a node's own under namespace _node_.",
    ("namespace", "pod"),
    ("namespace", "pod"),
)

# All families, also those that may be switched off.
SPECS = {
    spec.name: spec
    for spec in (
        *(ZONE_BYTES, ZONE_PACKETS, ZONE_COST, WORKLOAD_BYTES, WORKLOAD_COST),
        *(UNKNOWN_BYTES, ENCAPSULATION_BYTES, KUBEZONNET_BYTES),
    )
}


@dataclass(slots=True, eq=False)
class Series:
    """One counter. `number` is its identity in the checkpoint."""

    number: int
    family: str
    labels: tuple[str, ...]
    value: int = 0
    dirty: bool = False

    @property
    def sample(self) -> Sample:
        """The series as it is now."""
        return self.number, self.family, self.labels, self.value


@dataclass(slots=True)
class Family:
    """The series of one family, at most `budget` of them beside the folded ones."""

    spec: Spec
    next_number: Callable[[], int]
    budget: int | None = None
    series: dict[tuple[str, ...], Series] = field(default_factory=dict)
    folded: int = 0

    def get(self, labels: tuple[str, ...]) -> Series:
        """Return the series of `labels`, or the one that it is folded into once the budget is spent."""
        series = self.series.get(labels)
        if series is not None:
            return series
        if self.budget is not None and len(self.series) - self.folded >= self.budget:
            labels = self._fold(labels)
            if labels in self.series:
                return self.series[labels]
        series = Series(self.next_number(), self.spec.name, labels)
        self._add(series)
        return series

    def restore(self, series: Series) -> None:
        """Take a series back from a checkpoint; it stays, also where the budget has become smaller."""
        self._add(series)

    def _add(self, series: Series) -> None:
        self.series[series.labels] = series
        if self.spec.folded and series.labels == self._fold(series.labels):
            self.folded += 1

    def _fold(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        pairs = zip(self.spec.labels, labels, strict=True)
        return tuple(OTHER if name in self.spec.folded else value for name, value in pairs)
