# SPDX-License-Identifier: Apache-2.0
"""Services that spread requests over zones though every zone, or every node, could answer its own. Pure.

The test: of what a zone's clients exchange with a Service, the part that stays in the zone is, if nobody looks at
zones, the zone's part of the ready end points. Far more is already local; far less is pinned elsewhere.
"""

from collections.abc import Iterator, Mapping

from common.amounts import counted, percent
from history.advise.finding import Case, Finding, Sure, manifest
from history.advise.service_use import Demand, Use, is_bearable, last_zones, load_afterwards, load_line
from history.model.states.ready import Group, workload_of
from history.model.time_range import timestamp
from schemas.topology import Routing

DAY_MS = 86_400_000
KEEPS_LOCAL = ("PreferClose", "PreferSameZone", "PreferSameNode")
STICKY = "ClientIP"
AUTO = "auto"


def findings(case: Case) -> Iterator[Finding]:
    """Yield what is found of each Service."""
    for service in sorted(case.by_service):
        routing, _ = case.routing(service)
        use = case.use(service)
        if not use.sparable or len(last_zones(case.ready.get(service, ()))) < 2:
            continue
        if routing is not None and routing.headless:
            yield from _by_clients(case, service, use)
        elif not keeps_local(routing):
            yield from _blind(case, service, use, routing)
        elif routing is not None and routing.internal_traffic_policy != "Local":
            yield from _not_followed(case, service, use, routing)


def keeps_local(routing: Routing | None) -> bool:
    """Return whether a Service is told to keep requests in the zone, or on the node."""
    return routing is not None and (
        routing.internal_traffic_policy == "Local"
        or (routing.traffic_distribution in KEEPS_LOCAL and (routing.topology_mode or "").lower() != AUTO)
    )


def _blind(case: Case, service: Group, use: Use, routing: Routing | None) -> Iterator[Finding]:
    served = use.served
    if served.is_local:
        return
    load = load_afterwards(use, last_zones(case.ready[service]))
    sure, doubts = _how_sure(served, load, routing)
    agents = _is_on_each_node(case, service, use)
    auto = routing is not None and (routing.topology_mode or "").lower() == AUTO
    distribution = "PreferSameNode" if agents else "PreferClose"
    facts = [
        f"{percent(use.translated, use.requests)} of these clients' requests go by the Service's address; of what "
        f"clients in zones with end points exchange with it, {served.line(of='')}",
        use.who,
        _policy(routing),
        *doubts,
    ]
    if use.lacking:
        facts.append("clients in zones without an end point are not in the saving")
    conditions = [_CONDITIONS[distribution], *_EVERYWHERE]
    if not agents:
        conditions.append("from Kubernetes 1.35 on write PreferSameZone, its new name (beta in 1.34, KEP-3015)")
    steps = []
    if auto:
        steps.append(
            f"kubectl annotate service --namespace {service.namespace} {service.name} "
            "service.kubernetes.io/topology-mode- service.kubernetes.io/topology-aware-hints-"
        )
        conditions.append("the annotation wins over trafficDistribution: take it off in the same change")
    kind = "node_agent" if agents else "topology_mode" if auto else "blind_service"
    title = {
        "node_agent": "every node has an end point of its own, and clients ask others",
        "topology_mode": "topology-mode Auto does not keep traffic in its zone",
        "blind_service": "balanced over zones although each zone has end points",
    }[kind]
    yield Finding(
        kind=kind,
        title=title,
        subject=str(service),
        sure=sure,
        fates={cell: case.kept(cell, size) for cell, size in use.sparable.items() if size},
        facts=facts,
        conditions=conditions,
        costs=[load_line(load)],
        manifests=[manifest(service, {"trafficDistribution": distribution})],
        steps=steps,
        ready=case.ready[service],
    )


def _not_followed(case: Case, service: Group, use: Use, routing: Routing) -> Iterator[Finding]:
    """Yield a Service that is told to keep traffic in the zone for a day, and is spread as if it were not."""
    served = use.served
    _, since_ms = case.routing(service)
    told_for_ms = case.evidence.span.to_ms - max(since_ms, case.evidence.span.from_ms)
    # Connections stay where they are when the policy changes: give them a day.
    if told_for_ms < DAY_MS or served.is_local or not served.is_blind:
        return
    why, step = _hints(case, service)
    yield Finding(
        kind="not_followed",
        title=f"{routing.traffic_distribution} is set, and requests are spread over zones all the same",
        subject=str(service),
        sure="likely",
        fates={cell: case.kept(cell, size) for cell, size in use.sparable.items() if size},
        facts=[
            served.line(of=""),
            _policy(routing),
            f"hints {why}",
        ],
        conditions=["the policy holds for longer than the clients' connections"],
        costs=[load_line(load_afterwards(use, last_zones(case.ready[service])))],
        steps=[step],
        ready=case.ready[service],
    )


def _hints(case: Case, service: Group) -> tuple[str, str]:
    """Return what is known of the hints of a Service's end points, and what is to be done by that."""
    hints = case.hints(service)
    if hints is None:
        return "not known: the topology has no EndpointSlice with ready end points (--kube-endpoint-slices)", _SEE_HINTS
    ready = counted(hints.ready, "ready end point")
    found = f"on all {ready}" if hints.hinted == hints.ready else f"on {hints.hinted} of {ready}"
    if case.evidence.span.to_ms - hints.since_ms < DAY_MS:
        # Requests of before say nothing of who follows them now.
        return f"{found}, and that since {timestamp(hints.since_ms)[:16]} UTC only", _LOOK_AGAIN
    if hints.hinted == hints.ready:
        return f"{found}: who balances does not follow them", _FOLLOW_HINTS
    if hints.hinted:
        return f"{found}: kube-proxy follows them only where all have some", _GIVE_HINTS
    return f"{found}: the control plane gives none", _GIVE_HINTS


def _by_clients(case: Case, service: Group, use: Use) -> Iterator[Finding]:
    """Yield what is to be asked where clients choose end points themselves; not of replicas among themselves."""
    among = {cell: size for cell, size in use.sparable.items() if cell.client.label == cell.server.label}
    spared = {cell: size for cell, size in use.sparable.items() if cell not in among}
    if not spared or use.served.is_local or any(_is_stateful(name) for name in use.servers):
        return
    yield Finding(
        kind="headless",
        title="clients choose among its end points without looking at zones",
        subject=str(service),
        sure="ask",
        fates={cell: case.within(cell, size) for cell, size in spared.items()},
        facts=[
            use.served.line(),
            use.who,
            "the Service is headless: kube-proxy is not in the way, trafficDistribution does nothing",
        ],
        costs=[load_line(load_afterwards(use, last_zones(case.ready[service])))],
        steps=[
            "give the clients' balancer the zone (gRPC: xDS locality or a resolver of your own; a mesh: locality "
            "with outlier detection), or let them use a Service with an address of its own"
        ],
        ready=case.ready[service],
    )


def _how_sure(served: Demand, load: Mapping[str, float], routing: Routing | None) -> tuple[Sure, list[str]]:
    doubts: list[str] = []
    sure: Sure = "measured"
    if routing is None:
        sure = "likely"
        doubts.append("no state says how this Service chooses end points: see whether trafficDistribution is set")
    if not served.is_blind:
        sure = "ask"
        pinned = served.local < served.expected
        side = "connections are pinned to end points elsewhere" if pinned else "something keeps a part local"
        doubts.append(f"the local part is not what blind balancing gives: {side}; look at how clients connect")
    if routing is not None and routing.session_affinity == STICKY:
        sure = "ask"
        doubts.append("session affinity ClientIP keeps clients where they are")
    if not is_bearable(load):
        sure = "ask"
        doubts.append("the end points of a zone would get much more than now: add replicas there first")
    return sure, doubts


def _is_on_each_node(case: Case, service: Group, use: Use) -> bool:
    """Return whether the servers are a DaemonSet's, with an end point on every node that has clients."""
    servers = [workload_of(label) for label in use.servers]
    if any(each is None or each.kind != "DaemonSet" for each in servers):
        return False
    clients = {node for label in use.clients if (group := workload_of(label)) for node in case.nodes.get(group, ())}
    return bool(clients) and clients <= case.nodes.get(service, set())


def _is_stateful(label: str) -> bool:
    group = workload_of(label)
    return group is not None and group.kind == "StatefulSet"


def _policy(routing: Routing | None) -> str:
    if routing is None:
        return "policy then: not known"
    said = {
        "type": routing.type,
        "trafficDistribution": routing.traffic_distribution or "not set",
        "internalTrafficPolicy": routing.internal_traffic_policy,
        "topology-mode": routing.topology_mode,
    }
    return "policy then: " + ", ".join(f"{name} {value}" for name, value in said.items() if value)


_FOLLOW_HINTS = (
    "Cilium in place of kube-proxy: loadBalancer.serviceTopology=true; kube-proxy: as new as the API server, on nodes "
    "with the label topology.kubernetes.io/zone"
)
_GIVE_HINTS = (
    "see that the API server and the controller manager know trafficDistribution (Kubernetes 1.31 or later), and that "
    "each node has the label topology.kubernetes.io/zone"
)
_LOOK_AGAIN = "look again when the hints have been as they are for a day"
_SEE_HINTS = "kubectl get endpointslices -o yaml: with hints, see to who balances; without, to the control plane"
_CONDITIONS = {
    "PreferClose": "Kubernetes 1.31 or later for trafficDistribution: PreferClose (beta; stable in 1.33, KEP-4444)",
    "PreferSameNode": "Kubernetes 1.34 or later for trafficDistribution: PreferSameNode (beta; stable in 1.35, "
    "KEP-3015); before that internalTrafficPolicy: Local, which drops where a node has no ready end point (KEP-2086)",
}
_EVERYWHERE = (
    "kube-proxy as new as the API server; Cilium in its place needs loadBalancer.serviceTopology=true",
    "an autoscaler that looks at the average of all pods does not see one zone's overload",
)
