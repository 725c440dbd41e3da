# SPDX-License-Identifier: Apache-2.0
"""Makes of an audit what a comparison with a bill has to know of each node. Pure."""

from collections.abc import Collection

from audit.known import OTHER
from audit.result import Audit, covered
from history.bill.books.sums import Trust


def trust_of(audit: Audit | None, why_none: str, nodes: Collection[str], observers: Collection[str]) -> Trust:
    """Return how far each node can be trusted. `nodes`: the cluster's; `observers`: who counted any flow."""
    found = Trust(unmetered=set(nodes) - set(observers), why_none=why_none)
    if audit is None:
        return found
    found.unmetered -= audit.nodes_metered
    found.unmeasured_at_least = audit.unmeasured_at_least
    for gap in audit.gaps:
        if gap.to_ms is not None and gap.to_ms > gap.from_ms and gap.node not in found.unmetered:
            found.unmeasured.setdefault(gap.node, []).append((gap.from_ms, gap.to_ms))
    for (_, node), sums in audit.nodes.items():
        lost = sum(amount.bytes for hop in sums.hops.values() for amount in hop.lost.values())
        if node != OTHER and sums.seen.bytes and lost:
            found.lost[node] = min(lost / sums.seen.bytes, 1.0)
    for node, coverage in audit.coverage.items():
        if (ratio := covered([coverage]).get("out")) is not None:
            found.coverage[node] = ratio
    return found
