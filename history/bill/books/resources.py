# SPDX-License-Identifier: Apache-2.0
"""What a node is called in a bill: made of the provider id that its cloud gave it in Kubernetes. Pure.

A node's `spec.providerID` is aws:///ZONE/INSTANCE, gce://PROJECT/ZONE/INSTANCE, or azure:///subscriptions/...: the
clouds' own controllers write it (kubernetes/cloud-provider-aws, cloud-provider-gcp, cloud-provider-azure).
"""

import re
from bisect import bisect_right
from collections.abc import Iterable

from schemas.topology import TopologyState

# A scale set is billed as a whole, its machines are not told apart.
_OF_SCALE_SET = re.compile(r"(/virtualmachinescalesets/[^/]+)/virtualmachines/[^/]+$")
_EVER_MS = 2**63 - 1


def resource_of(provider_id: str) -> str | None:
    """Return what a bill calls this node; None for an id of another cloud."""
    cloud, _, rest = provider_id.partition("://")
    parts = [part for part in rest.split("/") if part]
    if not parts:
        return None
    if cloud == "aws":
        return parts[-1]
    if cloud == "gce" and len(parts) == 3:
        return f"{parts[0]}/{parts[2]}"
    if cloud == "azure":
        return _OF_SCALE_SET.sub(r"\1", f"/{'/'.join(parts)}".lower())
    return None


class Nodes:
    """The nodes of a cluster over time, by name, and what a bill calls them."""

    def __init__(self, states: Iterable[TopologyState]) -> None:
        self._known: dict[str, list[tuple[int, int, str | None]]] = {}
        for state in sorted(states, key=lambda state: (state.name, state.from_ms)):
            resource = resource_of(state.provider_id) if state.provider_id else None
            to_ms = _EVER_MS if state.to_ms is None else state.to_ms
            self._known.setdefault(state.name, []).append((state.from_ms, to_ms, resource))

    @property
    def names(self) -> set[str]:
        """All names."""
        return set(self._known)

    @property
    def resources(self) -> set[str]:
        """All that a bill may call a node."""
        return {resource for states in self._known.values() for _, _, resource in states if resource}

    def within(self, from_ms: int, to_ms: int) -> set[str]:
        """Return the names of the nodes that there were in a time."""
        return {
            name
            for name, states in self._known.items()
            if any(start < to_ms and end > from_ms for start, end, _ in states)
        }

    def resource(self, name: str, at_ms: int) -> str | None:
        """Return what a bill calls the node of that name then: a name may have been given to another machine since."""
        states = self._known.get(name, [])
        if len(states) == 1:
            return states[0][2]
        place = max(bisect_right([start for start, _, _ in states], at_ms) - 1, 0)
        after = [resource for _, _, resource in states[place:] if resource]
        before = [resource for _, _, resource in states[:place] if resource]
        return after[0] if after else before[-1] if before else None
