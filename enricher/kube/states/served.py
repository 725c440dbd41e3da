# SPDX-License-Identifier: Apache-2.0
"""By which ports of a pod the Services that select it reach it, as Kubernetes finds them. Pure.

A Service's target port is a number, or the name of a port of the pod's containers, which may be another number in
each pod (FindPort() in pkg/api/v1/pod/util.go of kubernetes).
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, cast, get_args

from enricher.kube.states.objects import Pod, Service
from schemas.topology import Served

Protocol = Literal["tcp", "udp", "sctp"]
# The ports of a pod's containers that have names; the first of a name counts.
NamedPorts = Mapping[tuple[str, Protocol], int]

_SIDECAR = "Always"


class Target(NamedTuple):
    """A target port of a Service: a number, or a name."""

    protocol: Protocol
    port: int | str


class Offer(NamedTuple):
    """A Service as pods see it."""

    service: str
    headless: bool
    targets: tuple[Target, ...]


def offer_of(service: Service) -> Offer:
    """Return what a Service sends where; of a port that no Service can have, nothing."""
    spec = service.spec
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    targets = [
        Target(protocol, target)
        for each in spec.ports or ()
        if (protocol := _protocol(each.protocol)) and (target := each.target_port or each.port)
    ]
    return Offer(sys.intern(service.metadata.name), "None" in addresses, tuple(dict.fromkeys(targets)))


def named_ports(pod: Pod) -> NamedPorts:
    """Return a pod's ports that have names. Of the containers that only initialise it none serves, sidecars do."""
    sidecars = (each for each in pod.spec.init_containers or () if each.restart_policy == _SIDECAR)
    found: dict[tuple[str, Protocol], int] = {}
    for container in (*(pod.spec.containers or ()), *sidecars):
        for port in container.ports or ():
            if port.name and port.container_port and (protocol := _protocol(port.protocol)):
                found.setdefault((port.name, protocol), port.container_port)
    return found


def served(offers: Iterable[Offer], named: NamedPorts) -> tuple[Served, ...]:
    """Return by which ports these Services reach a pod, in an order that does not depend on theirs."""
    return tuple(sorted(set(_served(offers, named)), key=_order))


def _served(offers: Iterable[Offer], named: NamedPorts) -> Iterator[Served]:
    for offer in offers:
        for protocol, target in offer.targets:
            port = named.get((target, protocol)) if isinstance(target, str) else target
            if port is not None and 0 < port < 65536:
                yield Served(offer.service, protocol, port, offer.headless)


def _order(one: Served) -> tuple[str, str, int]:
    return one.service, one.protocol, one.port


def _protocol(name: str | None) -> Protocol | None:
    lower = (name or "TCP").lower()
    return cast("Protocol", lower) if lower in get_args(Protocol) else None
