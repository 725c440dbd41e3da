# SPDX-License-Identifier: Apache-2.0
"""Requests that an Istio mesh balances over zones: its proxies choose the end point, and kube-proxy is not asked. Pure.

Sidecars show themselves by what they ask their control plane, and reach the pods of a Service by the pods' own ports.
The proxies of ambient nodes tunnel to a port of their own, so that the Service is not to be seen in the flow.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from history.advise.finding import Case, Fate, Finding, Sure, manifest
from history.advise.rules.balancing import keeps_local
from history.advise.service_use import (
    THROUGH_SERVICE,
    Use,
    is_bearable,
    last_zones,
    load_afterwards,
    load_line,
    part_by_service,
    use_of,
)
from history.model.evidence import Cell
from history.model.states.ready import Group, Step, workload_of

# Where sidecars ask what to do (xDS over TLS), and where ambient nodes tunnel to (HBONE); Istio's documentation.
CONTROL_PORT, TUNNEL_PORT = 15012, 15008


def findings(case: Case) -> Iterator[Finding]:
    """Yield what sidecars balance of each Service, and what tunnels carry to each workload."""
    proxied = _with_sidecar(case)
    for service, cells in sorted(case.by_service.items()):
        routing, since_ms = case.routing(service)
        parts = part_by_service(cells)
        own = [
            (cell, size)
            for cell, size in cells
            if cell.client.label in proxied and parts.get(cell.client.label, 0.0) < THROUGH_SERVICE
        ]
        if own and not keeps_local(routing) and not (routing is not None and routing.headless):
            steps = case.ready.get(service, ())
            use = use_of(own, case.evidence, steps, since_ms, headless=True)
            through = {client: 1 - part for client, part in parts.items()}
            yield from _finding(case, str(service), use, steps, [_destination_rule(service)], _SIDECAR, through)
    for (label, port), cells in sorted(case.by_server.items()):
        group = workload_of(label)
        if port == TUNNEL_PORT and group is not None:
            services = sorted(case.services_of(group))
            steps = case.ready.get(group, ())
            use = use_of(cells, case.evidence, steps, case.evidence.span.from_ms, headless=True)
            if not any(keeps_local(case.routing(service)[0]) for service in services):
                told = [manifest(service, {"trafficDistribution": "PreferClose"}) for service in services]
                yield from _finding(case, f"{label}:{port}", use, steps, told, _AMBIENT)


def _with_sidecar(case: Case) -> set[str]:
    """Return who asks Istio's control plane what to do."""
    return {
        cell.client.label
        for (label, port), cells in case.by_server.items()
        if port == CONTROL_PORT and (group := workload_of(label)) and f"{group.name}-".startswith("istiod-")
        for cell, _ in cells
    }


def _finding(
    case: Case,
    subject: str,
    use: Use,
    steps: Sequence[Step],
    manifests: list[dict[str, Any]],
    conditions: list[str],
    through: Mapping[str, float] | None = None,
) -> Iterator[Finding]:
    """Yield what is found of one Service or workload.

    `through`: which part of each client's requests may pass the mesh, where that is not all.
    """
    served, zones = use.served, last_zones(steps)
    if not use.sparable or len(zones) < 2 or served.is_local:
        return
    load = load_afterwards(use, zones)
    # With sidecars: where requests past the mesh are not seen translated either, those look the same.
    told_apart = through is None or case.shows_translation
    sure: Sure = "likely" if served.is_blind and told_apart and is_bearable(load) else "ask"
    parts = through or {}
    fates: dict[Cell, Fate] = {
        cell: case.kept(cell, int(size * parts.get(cell.client.label, 1.0))) for cell, size in use.sparable.items()
    }
    yield Finding(
        kind="mesh",
        title="a mesh balances it over zones although each zone has end points",
        subject=subject,
        sure=sure,
        fates=fates,
        facts=[
            served.line(),
            use.who,
            *([] if told_apart else [_NOT_TOLD_APART]),
        ],
        conditions=conditions,
        costs=[load_line(load)],
        manifests=manifests,
        ready=steps,
    )


def _destination_rule(service: Group) -> dict[str, Any]:
    # Locality does nothing without outlier detection; the figures are those that Envoy has by default.
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"namespace": service.namespace, "name": service.name},
        "spec": {
            "host": f"{service.name}.{service.namespace}.svc.cluster.local",
            "trafficPolicy": {
                "loadBalancer": {"localityLbSetting": {"enabled": True}},
                "outlierDetection": {"consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s"},
            },
        },
    }


_NOT_TOLD_APART = (
    "no request is seen translated in this cluster: pods of these clients without a sidecar look like those with one"
)
_SIDECAR = [
    "the clients' requests to this Service pass their sidecar and name the Service: they ask Istio's control plane, "
    "and the flows show neither what they exclude nor who asks pod by pod, as a scraper does",
    "no other DestinationRule for this host: kubectl get destinationrules --all-namespaces",
    "Istio keeps to locality only with outlier detection; an end point that fails is left out for a while",
]
_AMBIENT = [
    "Istio in ambient mode: its proxies follow trafficDistribution of the Service, before any annotation",
    "the tunnel does not show which Service was asked: these are all whose end points the pods are",
]
