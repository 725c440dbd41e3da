# SPDX-License-Identifier: Apache-2.0
"""Reads a node into its state: where it is, its addresses and its pods' networks. Pure."""

import sys

from enricher.kube.states.fields import at_most, interned, milliseconds
from enricher.kube.states.objects import Node
from schemas.topology import MAX_ADDRESS, MAX_LISTED, MAX_PROVIDER_ID, TopologyState

ZONE_LABEL = "topology.kubernetes.io/zone"
REGION_LABEL = "topology.kubernetes.io/region"
ZONE_ID_LABEL = "topology.k8s.aws/zone-id"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
# Addresses that a CNI says are the node's own, inside the range it gives to pods: what the host sends to pods comes
# from them (Calico: libcalico-go backend/k8s/conversion/constants.go; Cilium: pkg/annotation/k8s.go).
OWN_ADDRESS_ANNOTATIONS = (
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
)


def node_state(node: Node, seen_ms: int) -> TopologyState:
    """Return a node's state, `from_ms` as of its creation. Its addresses are the numeric ones, and its CNI's."""
    meta, labels = node.metadata, node.metadata.labels or {}
    return TopologyState(
        kind="node",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=sys.intern(meta.name),
        addresses=_bounded(_addresses(node)),
        from_ms=milliseconds(meta.creation_timestamp) or seen_ms,
        zone=interned(_zone(node)),
        region=interned(labels.get(REGION_LABEL)),
        zone_id=interned(labels.get(ZONE_ID_LABEL)),
        pod_cidrs=tuple(_bounded(_pod_cidrs(node))),
        provider_id=at_most(node.spec.provider_id, MAX_PROVIDER_ID),
        instance_type=interned(labels.get(INSTANCE_TYPE_LABEL)),
    )


def left_out(node: Node) -> list[str]:
    """Return what is left out of a node's state because no object can have it: `address`, `provider_id`."""
    addresses, cidrs = _addresses(node), _pod_cidrs(node)
    found = ["address"] if [addresses, cidrs] != [_bounded(addresses), _bounded(cidrs)] else []
    return found + ["provider_id"] * (len(node.spec.provider_id or "") > MAX_PROVIDER_ID)


def _addresses(node: Node) -> list[str]:
    notes = node.metadata.annotations or {}
    addresses = [each.address for each in node.status.addresses or () if each.type in ("InternalIP", "ExternalIP")]
    addresses += [notes[name] for name in OWN_ADDRESS_ANNOTATIONS if notes.get(name)]
    return list(dict.fromkeys(addresses))


def _pod_cidrs(node: Node) -> list[str]:
    return node.spec.pod_cidrs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])


def _bounded(addresses: list[str]) -> list[str]:
    return [each for each in addresses if len(each) <= MAX_ADDRESS][:MAX_LISTED]


def _zone(node: Node) -> str | None:
    """Return a node's zone; None for what Azure writes there of a machine outside all zones: its fault domain.

    Zones are region-number, fault domains 0, 1, 2 (https://kubernetes-sigs.github.io/cloud-provider-azure/topics/
    availability-zones/). Such a machine may be in any zone of its region. Others call their zones 1 and 2 in earnest.
    """
    zone = (node.metadata.labels or {}).get(ZONE_LABEL)
    fault_domain = zone is not None and zone.isdecimal() and (node.spec.provider_id or "").startswith("azure:")
    return None if fault_domain else zone
