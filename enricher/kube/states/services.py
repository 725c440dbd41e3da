# SPDX-License-Identifier: Apache-2.0
"""Reads a service into its state: its addresses, and how it chooses end points. Pure."""

import sys

from enricher.kube.states.fields import interned, is_name, milliseconds
from enricher.kube.states.objects import Service
from schemas.topology import MAX_LABEL_NAME, MAX_LABEL_VALUE, MAX_LABELS, Routing, TopologyState

# The second is the name before Kubernetes 1.27.
TOPOLOGY_MODE_ANNOTATIONS = ("service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints")


def service_state(service: Service, seen_ms: int) -> TopologyState:
    """Return a service's state; a headless one has no address."""
    meta, spec = service.metadata, service.spec
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    return TopologyState(
        kind="service",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=meta.name,
        namespace=interned(meta.namespace),
        addresses=[address for address in addresses if address and address != "None"],
        from_ms=milliseconds(meta.creation_timestamp) or seen_ms,
        routing=_routing(service, headless="None" in addresses),
        selector=_selector(service) if _fits(service) else None,
    )


def left_out(service: Service) -> list[str]:
    """Return what is left out of a service's state because no object can have it: `routing`, `selector`."""
    refused = any(value and not is_name(value) for value in _said(service).values())
    return (["routing"] if refused else []) + ([] if _fits(service) else ["selector"])


def _selector(service: Service) -> dict[str, str] | None:
    """Return which labels its pods have, sorted by name; equal ones are compared as they are."""
    labels = sorted((service.spec.selector or {}).items())
    return {sys.intern(name): sys.intern(value) for name, value in labels} or None


def _fits(service: Service) -> bool:
    wanted = service.spec.selector or {}
    sizes = all(len(name) <= MAX_LABEL_NAME and len(value) <= MAX_LABEL_VALUE for name, value in wanted.items())
    return sizes and len(wanted) <= MAX_LABELS


def _routing(service: Service, *, headless: bool) -> Routing:
    """Return what a Service says of how it chooses end points; what the API server would refuse is left out."""
    known = {name: sys.intern(value) for name, value in _said(service).items() if value and is_name(value)}
    return Routing(headless=headless, **known)


def _said(service: Service) -> dict[str, str | None]:
    spec, notes = service.spec, service.metadata.annotations or {}
    return {
        "type": spec.type,
        "traffic_distribution": spec.traffic_distribution,
        "internal_traffic_policy": spec.internal_traffic_policy,
        "external_traffic_policy": spec.external_traffic_policy,
        "session_affinity": spec.session_affinity,
        "topology_mode": next((notes[name] for name in TOPOLOGY_MODE_ANNOTATIONS if notes.get(name)), None),
    }
