# SPDX-License-Identifier: Apache-2.0
"""The made-up shop that advice is tried on: who is in it, and what is found of it."""

from history.advise.advice import Advice
from schemas.topology import Routing
from tests.support.history.scenario import GB, Scenario

API, WEB = "shop/Deployment/api", "shop/Deployment/web"
ISTIOD = "istio-system/Deployment/istiod-1-27"
POSTGRES = "shop/StatefulSet/postgres"
EVERYWHERE = {"a": 1, "b": 1, "c": 1}
CLUSTER_IP = Routing()
TOLD = Routing(traffic_distribution="PreferClose")


def found(advice: Advice) -> list[tuple[str, str, str]]:
    """Return what is told: kind, subject, how sure."""
    return [(each.finding.kind, each.finding.subject, each.finding.sure) for each in advice.told]


def shop(servers: dict[str, int] = EVERYWHERE, routing: Routing | None = CLUSTER_IP, **more: object) -> Scenario:
    """Return web in every zone, asking api by its Service."""
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, servers)
    scenario.service("api", API, 8080, routing)
    scenario.exchange(WEB, "api", 8080, 10 * GB, 90 * GB, **more)  # type: ignore[arg-type]
    return scenario


def scraped(*stacks: str, sizes: tuple[int, ...] = (60, 60, 60), workload: str = "monitoring/StatefulSet/") -> Scenario:
    """Return monitoring stacks, zones a and b in turn, that each scrape the same targets in every zone."""
    scenario = Scenario()
    targets = [f"shop/Deployment/t{number}" for number in range(len(sizes))]
    for target in targets:
        scenario.workload(target, EVERYWHERE)
    for place, stack in enumerate(stacks):
        zone = "ab"[place % 2]
        scenario.workload(f"{workload}{stack}", {zone: 1})
        for target, size in zip(targets, sizes, strict=True):
            for other in "abc":
                client = (f"{workload}{stack}", zone)
                scenario.say(client, (target, other), 9100, size * GB // 100, size * GB, hours=None)
    return scenario


def agents(dns: dict[str, int], routing: Routing = CLUSTER_IP, *, local: bool = False) -> Scenario:
    """Return web, nine pods of it, asking a DNS agent on each node by its Service."""
    scenario = Scenario()
    scenario.workload(WEB, {"a": 3, "b": 3, "c": 3})
    scenario.workload("kube-system/DaemonSet/dns", dns)
    scenario.service("dns", "kube-system/DaemonSet/dns", 53, routing)
    scenario.exchange(WEB, "dns", 53, 10 * GB, 90 * GB, local=local)
    return scenario


def outside(routing: Routing) -> Scenario:
    """Return a load balancer that reaches web by way of nodes in another zone."""
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.service("web", WEB, 8080, routing)
    for zone in "bc":
        scenario.say(("cidr/lb", "a"), (WEB, zone), 8080, 50 * GB, 50 * GB, service="web", dnat=True, relay=True)
    return scenario


def meshed(servers: dict[str, int] = EVERYWHERE, routing: Routing = CLUSTER_IP, *, local: bool = False) -> Scenario:
    """Return web with a sidecar, which asks Istio's control plane and then api's pods."""
    scenario = shop(servers, routing, dnat=False, local=local)
    scenario.workload(ISTIOD, {"a": 1})
    scenario.say((WEB, "a"), (ISTIOD, "a"), 15012, 1000, 1000)
    return scenario
