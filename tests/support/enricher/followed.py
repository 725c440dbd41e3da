# SPDX-License-Identifier: Apache-2.0
"""The lab's API, all that follows it in an enricher, and the truth to compare the index with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from common.service.running import Service
from enricher.index.ownership import Index
from enricher.kube.cluster import ClusterView
from enricher.kube.follower import Follower
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from lab.kube.api import ApiSettings, KubeApi, stored
from lab.kube.kubeconfig import kubeconfig
from lab.kube.objects import objects
from lab.kube.store import RESOURCES
from lab.stories import shop
from tests.support.lab.faulty_api import FaultyApi
from tests.support.lab.kube_faults import KubeFaults

PLAN = shop()
AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
TOKEN = "lab-token"

Facts = dict[str, tuple[Any, ...]]


class Followed:
    """An enricher's index that follows an API."""

    def __init__(
        self,
        api: KubeApi,
        faults: KubeFaults,
        kubeconfig_file: Path,
        silence_seconds: float,
        namespace_labels: str,
        watches_slices: bool = False,
    ) -> None:
        self.api = api
        self.faults = faults
        self.kubeconfig = kubeconfig_file
        self.service = Service("enricher")
        self.index = Index()
        self.metrics = EnricherMetrics(self.service.registry, self.index)
        settings = EnricherSettings(
            kubeconfig=kubeconfig_file,
            kube_silence_seconds=silence_seconds,
            namespace_labels=namespace_labels,
            kube_endpoint_slices=watches_slices,
        )
        self.watches_slices = watches_slices
        self.label_names = set(settings.label_names)
        self.cluster = ClusterView(
            self.index, live=True, namespace_labels=settings.label_names, watches_slices=watches_slices
        )
        self.follower = Follower(self.service, settings, self.cluster, self.metrics)

    def truth(self) -> Facts:
        """Return what there is, read from the store's JSON: its addresses, node or zone, and what selects it."""
        found = {name: self._present(name) for name in RESOURCES}
        selectors = [
            (s["metadata"]["namespace"], s["metadata"]["name"], s["spec"].get("selector")) for s in found["services"]
        ]
        facts: Facts = {}
        for namespace in found["namespaces"] if self.label_names else []:
            labels = namespace["metadata"].get("labels") or {}
            facts[namespace["metadata"]["uid"]] = (
                [],
                {name: labels.get(name) for name in self.label_names},
            )
        for each in found["endpointslices"]:
            meta = each["metadata"]
            is_of_api_servers = (meta["namespace"], meta["name"]) == ("default", "kubernetes")
            if self.watches_slices or is_of_api_servers:
                addresses = [address for end in each["endpoints"] for address in end["addresses"]]
                facts[meta["uid"]] = (addresses if is_of_api_servers else [], _slice_facts(each))
        for node in found["nodes"]:
            zone = node["metadata"]["labels"].get("topology.kubernetes.io/zone")
            addresses = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
            facts[node["metadata"]["uid"]] = (addresses, zone)
        for service in found["services"]:
            facts[service["metadata"]["uid"]] = (service["spec"]["clusterIPs"], service["metadata"]["name"])
        for pod in found["pods"]:
            meta, status = pod["metadata"], pod["status"]
            if status["phase"] in ("Succeeded", "Failed") or not status.get("podIPs"):
                continue
            selected = sorted(
                name
                for namespace, name, selector in selectors
                if namespace == meta["namespace"] and selector and selector.items() <= meta["labels"].items()
            )
            facts[meta["uid"]] = ([ip["ip"] for ip in status["podIPs"]], pod["spec"]["nodeName"], selected)
        return facts

    def known(self) -> Facts:
        """Return the same of what the index holds as still true."""
        facts: Facts = {}
        for state in self.index.current():
            if state.to_ms is None:
                rest = {
                    "namespace": (state.labels or {},),
                    "endpointslice": ([(each.zone, each.ready, each.hinted) for each in state.end_points],),
                    "node": (state.zone,),
                    "service": (state.name,),
                    "pod": (state.node, list(state.services)),
                }[state.kind]
                facts[state.uid] = (state.addresses, *rest)
        return facts

    async def agrees(self) -> None:
        """Wait until the index is the truth."""
        await self.until(lambda: self.known() == self.truth())

    async def until(self, check: Callable[[], object]) -> None:
        while not check():  # noqa: ASYNC110 - the condition lies in another coroutine
            await asyncio.sleep(0.01)

    def failures(self, resource: str, reason: str) -> float:
        """Return the metric that says what happened."""
        return self._sample("kube_failures_total", resource=resource, reason=reason)

    def lists(self, resource: str) -> float:
        return self._sample("kube_lists_total", resource=resource)

    def _sample(self, name: str, **labels: str) -> float:
        return self.service.registry.get_sample_value(f"zonemeter_enricher_{name}", labels) or 0.0

    def _present(self, resource: str) -> list[dict[str, Any]]:
        return [orjson.loads(item) for item in self.api.store.page(resource).items]


def _slice_facts(found: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Return of each zone its ready end points, and how many of those have hints."""
    ready = [each for each in found["endpoints"] or [] if (each.get("conditions") or {}).get("ready") is not False]
    zones = sorted({each.get("zone") or "" for each in ready})
    there = {zone: [each for each in ready if (each.get("zone") or "") == zone] for zone in zones}
    return [(zone, len(each), sum("hints" in one for one in each)) for zone, each in there.items()]


def api_with_everything() -> tuple[FaultyApi, KubeFaults]:
    """Return the lab's API with the shop in it, and its faults."""
    faults = KubeFaults()
    return FaultyApi(stored(objects(PLAN, AT)), ApiSettings(TOKEN, bookmark_seconds=0.1), faults), faults


def write_kubeconfig(file: Path, server: str, token: str = TOKEN, authority: Path | None = None) -> None:
    """Write a kubeconfig; `authority` is a PEM file."""
    config = orjson.loads(kubeconfig(server, token))
    if authority is not None:
        config["clusters"][0]["cluster"]["certificate-authority"] = str(authority)
    file.write_bytes(orjson.dumps(config))


@contextlib.asynccontextmanager
async def following(
    api: KubeApi,
    faults: KubeFaults,
    file: Path,
    server: str,
    silence: float = 60,
    namespace_labels: str = "",
    watches_slices: bool = False,
) -> AsyncIterator[Followed]:
    """Follow an API that is served already, by a kubeconfig written to `file`."""
    write_kubeconfig(file, server)
    made = Followed(api, faults, file, silence, namespace_labels, watches_slices)
    await made.follower.open()
    task = asyncio.create_task(made.follower.run())
    try:
        yield made
    finally:
        faults.heal()
        task.cancel()
        await asyncio.wait([task])
        await made.follower.close()
        assert task.cancelled(), task.exception()
