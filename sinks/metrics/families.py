# SPDX-License-Identifier: Apache-2.0
"""The metric families: names, labels, what may be folded. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from prices.book import SUBUNIT_DIGITS
from schemas.flow import Scope

# What stands in place of a label's value where a pair has no series of its own, and where it had one; no name in a
# cluster has an underscore.
OTHER = "_other_"
LEFT = "_left_"


class Sample(NamedTuple):
    """A series at one moment: its identity, what it counts and how far, when it grew last, whether it is served."""

    number: int
    family: str
    labels: tuple[str, ...]
    value: int
    changed_ms: int = 0
    served: bool = True


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
DELAYED_BYTES = Spec(
    "zonemeter_delayed_bytes_total",
    "IP-layer bytes that were counted more than ten minutes after their window had ended.",
    ("cluster",),
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
OPENCOST_BYTES = Spec(
    "kubecost_pod_network_egress_bytes_total",
    "IP-layer bytes that a pod sent to another zone, another region or the internet, as OpenCost asks for them.",
    ("pod_name", "namespace", "internet", "same_region", "same_zone", "service"),
    ("pod_name", "namespace", "service"),
)
# What OpenCost's labels `internet`, `same_region` and `same_zone` are; it does not ask for the other scopes.
OPENCOST_SCOPES: dict[Scope, tuple[str, str, str]] = {
    "cross_zone": ("false", "true", "false"),
    "cross_region": ("false", "false", "false"),
    "external": ("true", "false", "false"),
}

# All families, also those that may be switched off.
SPECS = {
    spec.name: spec
    for spec in (
        *(ZONE_BYTES, ZONE_PACKETS, ZONE_COST, WORKLOAD_BYTES, WORKLOAD_COST),
        *(UNKNOWN_BYTES, DELAYED_BYTES, ENCAPSULATION_BYTES, KUBEZONNET_BYTES, OPENCOST_BYTES),
    )
}
