# SPDX-License-Identifier: Apache-2.0
"""Reads an EndpointSlice into its state: ready end points by zone, and how many of them have hints. Pure.

Addresses are kept of the API servers' slice alone: those of all others are pods'.
"""

import sys
from collections import Counter

from enricher.kube.states.fields import changed_ms, interned, is_name
from enricher.kube.states.objects import EndPoint, EndpointSlice
from schemas.topology import MAX_ADDRESS, MAX_END_POINTS, MAX_LISTED, MAX_ZONES, TopologyState, ZoneEndPoints

SERVICE_LABEL = "kubernetes.io/service-name"
# Which slice the API servers write of themselves; their Service has the same name.
API_SERVERS = ("default", "kubernetes")


def slice_state(found: EndpointSlice, seen_ms: int) -> TopologyState | None:
    """Return a slice's state; None unless it belongs to a Service."""
    meta = found.metadata
    service = (meta.labels or {}).get(SERVICE_LABEL)
    if not service or not is_name(service):
        return None
    return TopologyState(
        kind="endpointslice",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=meta.name,
        namespace=interned(meta.namespace),
        services=(sys.intern(service),),
        addresses=_addresses(found) if (meta.namespace, meta.name) == API_SERVERS else [],
        from_ms=changed_ms(found, seen_ms),
        end_points=_by_zone(found) if _fits(found) else (),
    )


def left_out(found: EndpointSlice) -> list[str]:
    """Return what is left out of a slice's state because no object can have it: `end_points`."""
    return [] if _fits(found) else ["end_points"]


def _by_zone(found: EndpointSlice) -> tuple[ZoneEndPoints, ...]:
    ready: Counter[str] = Counter()
    hinted: Counter[str] = Counter()
    for each in found.endpoints or ():
        if _is_ready(each):
            zone = sys.intern(each.zone or "")
            ready[zone] += 1
            hinted[zone] += bool(each.hints and (each.hints.for_zones or each.hints.for_nodes))
    return tuple(ZoneEndPoints(zone, ready[zone], hinted[zone]) for zone in sorted(ready))


def _addresses(found: EndpointSlice) -> list[str]:
    """Return by which addresses the API servers answer: of what no pod is nobody else says whose it is."""
    made = {
        address for each in found.endpoints or () for address in each.addresses or () if len(address) <= MAX_ADDRESS
    }
    return sorted(made)[:MAX_LISTED]


def _is_ready(each: EndPoint) -> bool:
    return each.conditions is None or each.conditions.ready is not False


def _fits(found: EndpointSlice) -> bool:
    zones = {each.zone for each in found.endpoints or () if each.zone}
    return len(found.endpoints or ()) <= MAX_END_POINTS and len(zones) < MAX_ZONES and all(map(is_name, zones))
