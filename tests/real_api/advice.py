# SPDX-License-Identifier: Apache-2.0
"""What a real API server says to what is printed: the manifests of k8s/, and every change that `advise` prints."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from history.advise.advice import Advice
from history.advise.follow import manifests
from schemas.topology import Routing
from tests.k8s.rendered import K8S, RENDERED, render, with_component
from tests.support.history import shop as scenarios
from tests.support.kubernetes.api_server import ApiServer

# One scenario for each finding that prints a change.
FINDINGS: dict[str, Callable[[], Advice]] = {
    "blind_service": lambda: scenarios.shop().advice(),
    "topology_mode": lambda: scenarios.shop(routing=Routing(topology_mode="Auto")).advice(),
    "node_agent": lambda: scenarios.agents({"a": 3, "b": 3, "c": 3}).advice(),
    "no_end_point": lambda: scenarios.shop(
        {"a": 1, "b": 1}, Routing(traffic_distribution="PreferClose"), local=True
    ).advice(),
    "twice": lambda: scenarios.scraped("prometheus-a", "prometheus-b").advice(),
    "second_leg": lambda: scenarios.outside(Routing(type="LoadBalancer")).advice(),
    "mesh": lambda: scenarios.meshed().advice(),
}
# Whose field an owner sets as well: the server says so, and who it is.
OWNED = {"twice": 'conflict with "owner": .spec.replicas'}
APPLY = ("apply", "--server-side", "--field-manager", "zonemeter", "--dry-run=server", "-o", "json", "-f", "-")


def overlays(server: ApiServer) -> Iterator[str]:
    """Give each overlay, the chart, and the base with each component to the server; yield what was taken."""
    components = sorted(
        path.parent.name for path in K8S.glob("*/kustomization.yaml") if "kind: Component" in path.read_text()
    )
    for name in (*RENDERED, *components):
        objects = with_component(name) if name in components else render(name)
        # The Prometheus operator's kinds are not there.
        objects = [each for each in objects if each["apiVersion"] != "monitoring.coreos.com/v1"]
        for each in objects:
            if each["kind"] == "Namespace":
                server.kubectl("apply", "-f", "-", objects=[each])
        server.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", objects=objects)
        yield f"{name}: {len(objects)} objects"


def advice(server: ApiServer) -> Iterator[str]:
    """Make what each finding is about, apply the change as advised, and see that it changes that and nothing else."""
    server.kubectl("apply", "-f", "-", objects=[_destination_rules()])
    server.kubectl("wait", "--for=condition=Established", "crd/destinationrules.networking.istio.io")
    for kind, advised in FINDINGS.items():
        told = next(each for each in advised().told if each.finding.kind == kind)
        printed = list(yaml.safe_load_all("\n".join(manifests(told))))
        for change in printed:
            before = _make(server, change)
            after = _apply(server, change, OWNED.get(kind))
            assert _contains(after["spec"], change["spec"]), (kind, change, after)
            if before is not None:
                kept = _without(after["spec"], change["spec"])
                assert _contains(kept, _without(before["spec"], change["spec"])), (kind, before, after)
            yield f"{kind}: {change['kind']} {change['metadata']['namespace']}/{change['metadata']['name']}"


def _apply(server: ApiServer, change: dict[str, Any], conflict: str | None) -> dict[str, Any]:
    """Apply a change as `advise` says; `conflict`: what the server says before it is forced."""
    force: tuple[str, ...] = ()
    if conflict is not None:
        force = ("--force-conflicts",)
        try:
            server.kubectl(*APPLY, objects=[change])
        except AssertionError as error:
            assert conflict in str(error), error
        else:
            raise AssertionError(f"no {conflict} of {change}")
    found: dict[str, Any] = json.loads(server.kubectl(*APPLY, *force, objects=[change]))
    return found


def _make(server: ApiServer, change: dict[str, Any]) -> dict[str, Any] | None:
    """Make the object that a change is for, as its owner would have; None for what the change makes."""
    namespace, name = change["metadata"]["namespace"], change["metadata"]["name"]
    server.kubectl(
        "apply", "-f", "-", objects=[{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}]
    )
    if change["kind"] == "DestinationRule":
        return None
    labels = {"app.kubernetes.io/name": name}
    if change["kind"] == "Service":
        outside = "externalTrafficPolicy" in change["spec"]
        kind = {"type": "LoadBalancer"} if outside else {}
        spec: dict[str, Any] = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **kind}
    else:
        pod = {"containers": [{"name": "main", "image": "registry.example.com/main:1"}]}
        spec = {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            **({"serviceName": name} if change["kind"] == "StatefulSet" else {}),
        }
    made = {
        "apiVersion": change["apiVersion"],
        "kind": change["kind"],
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }
    server.kubectl("apply", "--server-side", "--field-manager", "owner", "--force-conflicts", "-f", "-", objects=[made])
    found: dict[str, Any] = server.get(change["kind"], name, "-n", namespace)
    return found


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and _contains(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(_contains, whole, part))
    return bool(whole == part)


def _without(whole: Any, part: Any) -> Any:
    """Return a document without what a change sets in it."""
    if not isinstance(whole, dict) or not isinstance(part, dict):
        return whole
    kept = {name: value for name, value in whole.items() if name not in part}
    nested = {
        name: _without(whole[name], part[name]) for name in part if isinstance(part[name], dict) and name in whole
    }
    return kept | nested


def _destination_rules() -> dict[str, Any]:
    """Return the definition of Istio's DestinationRule, without the shape of its spec."""
    shape = {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": shape}}
    names = {"kind": "DestinationRule", "plural": "destinationrules", "singular": "destinationrule"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "destinationrules.networking.istio.io"},
        "spec": {"group": "networking.istio.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }
