# SPDX-License-Identifier: Apache-2.0
"""The enricher's index beside a real API server: a cluster changes, the server dies, versions are forgotten."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.enricher.followed import Followed, api_with_everything, write_kubeconfig
from tests.support.kubernetes.api_server import TOKEN, ApiServer

NAMESPACE = "follow"
ZONE = "topology.kubernetes.io/zone"


class FollowedServer(Followed):
    """An index that follows the real API server."""

    def __init__(self, server: ApiServer) -> None:
        api, faults = api_with_everything()
        file = server.directory / "enricher.kubeconfig"
        write_kubeconfig(file, server.address, TOKEN, server.authority)
        super().__init__(api, faults, file, 60, "team", watches_slices=True)
        self.server = server

    def _present(self, resource: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.get(resource, "--all-namespaces")["items"]
        return found


def follow(server: ApiServer) -> Iterator[str]:
    """Let a cluster change in each way; yield what the index was right about."""
    labels = {"team": "shop"}
    server.kubectl("create", "-f", "-", objects=[_object("v1", "Namespace", NAMESPACE, labels=labels)])
    _make_cluster(server)
    yield from asyncio.run(_follow(server))


async def _follow(server: ApiServer) -> list[str]:
    followed = FollowedServer(server)
    await followed.follower.open()
    task = asyncio.create_task(followed.follower.run())
    said = []
    try:
        for what, act in _ACTS.items():
            await asyncio.to_thread(act, server)
            await _agrees(followed, what)
            said.append(f"{what}: {len(followed.known())} objects as they are")
    finally:
        task.cancel()
        await asyncio.wait([task])
        await followed.follower.close()
    return said


async def _agrees(followed: FollowedServer, what: str) -> None:
    for _ in range(300):
        truth = await asyncio.to_thread(followed.truth)
        if followed.known() == truth:
            return
        await asyncio.sleep(0.1)
    known = followed.known()
    differ = {uid: (known.get(uid), truth.get(uid)) for uid in known | truth if known.get(uid) != truth.get(uid)}
    raise AssertionError(f"{what}: the index and the API server hold of each object {differ}")


def _make_cluster(server: ApiServer) -> None:
    for number, zone in enumerate("abc"):
        name = f"node-{zone}"
        labels = {ZONE: f"eu-west-1{zone}", "topology.kubernetes.io/region": "eu-west-1"}
        server.kubectl("create", "-f", "-", objects=[_object("v1", "Node", name, labels=labels, spec={})])
        addresses = [{"type": "InternalIP", "address": f"10.9.0.{number + 1}"}]
        _patch(server, "node", name, {"status": {"addresses": addresses}}, "--subresource=status")
    ports = [{"port": 80, "targetPort": 8080}]
    for name in ("api", "web"):
        spec = {"selector": {"app": name}, "ports": ports}
        server.kubectl("create", "-f", "-", objects=[_object("v1", "Service", name, NAMESPACE, spec=spec)])
    for number in range(6):
        _make_pod(server, f"api-{number}", "abc"[number % 3], f"10.244.0.{number + 1}")


def _make_pod(server: ApiServer, name: str, zone: str, address: str) -> None:
    spec = {"nodeName": f"node-{zone}", "containers": [{"name": "main", "image": "registry.example.com/main:1"}]}
    made = _object("v1", "Pod", name, NAMESPACE, labels={"app": "api"}, spec=spec)
    server.kubectl("create", "-f", "-", objects=[made])
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    _patch(server, "pod", name, {"status": status}, "--subresource=status")


def _object(version: str, kind: str, name: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": more.pop("labels", {}), **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _patch(server: ApiServer, kind: str, name: str, change: dict[str, Any], *more: str) -> None:
    place = () if kind == "node" else ("-n", NAMESPACE)
    server.kubectl("patch", kind, name, *place, "--type=merge", "-p", json.dumps(change), *more)


def _select_others(server: ApiServer) -> None:
    _patch(server, "service", "web", {"spec": {"selector": {"app": "api"}, "trafficDistribution": "PreferClose"}})
    _patch(server, "pod", "api-5", {"metadata": {"labels": {"app": "other"}}})


def _hand_an_address_on(server: ApiServer) -> None:
    server.kubectl("delete", "pod", "api-0", "-n", NAMESPACE, "--force", "--grace-period=0")
    _make_pod(server, "api-new", "b", "10.244.0.1")


def _give_hints(server: ApiServer) -> None:
    """Write what the control plane's controller would: nothing else runs here."""
    made = [
        {
            "addresses": [f"10.244.0.{number}"],
            "conditions": {"ready": number < 3},
            "zone": f"eu-west-1{zone}",
            "hints": {"forZones": [{"name": f"eu-west-1{zone}"}]},
        }
        for number, zone in enumerate("aabc", 1)
    ]
    labels = {"kubernetes.io/service-name": "api"}
    slice_ = _object("discovery.k8s.io/v1", "EndpointSlice", "api-x", NAMESPACE, labels=labels, endpoints=made)
    server.kubectl("create", "-f", "-", objects=[slice_ | {"addressType": "IPv4", "ports": []}])


def _lose_a_zone(server: ApiServer) -> None:
    kept = [{"addresses": ["10.244.0.1"], "zone": "eu-west-1a"}]
    _patch(server, "endpointslice", "api-x", {"endpoints": kept})


def _end_a_pod(server: ApiServer) -> None:
    _patch(server, "pod", "api-1", {"status": {"phase": "Succeeded"}}, "--subresource=status")


def _move_a_node(server: ApiServer) -> None:
    _patch(server, "node", "node-c", {"metadata": {"labels": {ZONE: "eu-west-1b"}}})


def _hand_a_namespace_on(server: ApiServer) -> None:
    server.kubectl("label", "namespace", NAMESPACE, "--overwrite", "team=payments", "other=not-kept")


def _change_while_it_is_away(server: ApiServer) -> None:
    """Kill the server, and let versions be forgotten before the enricher can ask for what came since."""
    server.kill("kube-apiserver")
    server.start_server()
    server.kubectl("delete", "pod", "api-2", "-n", NAMESPACE, "--force", "--grace-period=0")
    _make_pod(server, "api-late", "a", "10.244.0.3")
    server.compact()


_ACTS: dict[str, Callable[[ApiServer], None]] = {
    "first list": lambda _: None,
    "other selectors": _select_others,
    "an address that another pod takes over": _hand_an_address_on,
    "a pod that ended": _end_a_pod,
    "hints": _give_hints,
    "a zone and hints that go": _lose_a_zone,
    "a node of another zone": _move_a_node,
    "a namespace of another team": _hand_a_namespace_on,
    "the server killed, versions forgotten": _change_while_it_is_away,
}
