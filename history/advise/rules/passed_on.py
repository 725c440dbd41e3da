# SPDX-License-Identifier: Apache-2.0
"""Legs that are billed once more: a node passes what came from outside on to a pod in another zone. Pure."""

from collections import defaultdict
from collections.abc import Iterator

from common.amounts import human
from history.advise.finding import Case, Finding, manifest
from history.model.evidence import Cell
from history.model.states.ready import Group

OUTSIDE_TYPES = ("NodePort", "LoadBalancer")


def findings(case: Case) -> Iterator[Finding]:
    """Yield, for each Service reached from outside, what nodes pass on to other zones."""
    legs: defaultdict[Group, dict[Cell, int]] = defaultdict(dict)
    for service, cells in case.by_service.items():
        for cell, size in cells:
            if cell.relay and cell.crosses:
                legs[service][cell] = size
    for service, crossing in sorted(legs.items()):
        routing, _ = case.routing(service)
        if routing is None or routing.type not in OUTSIDE_TYPES or routing.external_traffic_policy == "Local":
            continue
        yield Finding(
            kind="second_leg",
            title="nodes pass outside requests on to pods in other zones",
            subject=str(service),
            sure="ask",
            fates={cell: {} for cell in crossing},
            facts=[
                f"type {routing.type}, externalTrafficPolicy {routing.external_traffic_policy or 'Cluster'}",
                f"passed on across zones: {human(sum(crossing.values()))}",
            ],
            conditions=["the load balancer asks healthCheckNodePort, so that it sends to no node without a pod"],
            costs=["pods behind nodes that get more requests get more of them: load is even by node, no longer by pod"],
            manifests=[manifest(service, {"externalTrafficPolicy": "Local"})],
            steps=["or let the load balancer send to pods itself (AWS: target type ip)"],
            ready=case.ready.get(service, ()),
        )
