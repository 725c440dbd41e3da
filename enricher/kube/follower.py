# SPDX-License-Identifier: Apache-2.0
"""Follows the Kubernetes API: a reflector per resource, each with its own client, begun one after the other.

A client of its own for each, because to take up rotated credentials means to close its connections.
"""

import asyncio
import logging

from common.service.running import Service
from common.task_group import TaskGroup
from enricher.kube.client import KubeClient
from enricher.kube.cluster import ClusterView
from enricher.kube.reflector import API_SERVERS, ENDPOINT_SLICES, NAMESPACES, NODES, PODS, SERVICES, Reflector, Resource
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings

log = logging.getLogger(__name__)


class Follower:
    """The reflectors, and what the service says about them."""

    def __init__(
        self, service: Service, settings: EnricherSettings, cluster: ClusterView, metrics: EnricherMetrics
    ) -> None:
        self._service = service
        self._settings = settings
        self._cluster = cluster
        self._metrics = metrics
        self._resources = [SERVICES, NODES, PODS] if settings.kube_services else [NODES, PODS]
        # The join needs no others: it waits for these.
        self._needed = {resource.name for resource in self._resources}
        self._resources += [NAMESPACES] if settings.label_names else []
        self._resources += [ENDPOINT_SLICES if settings.kube_endpoint_slices else API_SERVERS]
        self._clients = {r.name: KubeClient(settings.kube, settings.kubeconfig) for r in self._resources}
        self._lists = {resource.name: asyncio.Event() for resource in self._resources}
        self._failing: set[str] = set()

    async def open(self) -> None:
        """Read the credentials; raise `Refusal` if there are none. Does not connect yet."""
        for resource in self._resources:
            await self._clients[resource.name].open()
            if resource.name in self._needed:
                self._service.health.waiting(_part(resource.name), f"{resource.name} are not listed yet")

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()

    async def run(self) -> None:
        """Follow forever. A resource that the join needs is begun when the one before it is listed, others then."""
        self._cluster.begin()
        async with TaskGroup() as tasks:
            for resource in self._resources:
                tasks.create_task(self._reflector(resource).run(), name=f"watch-{resource.name}")
                if resource.name in self._needed:
                    await self._lists[resource.name].wait()

    async def all_listed(self, stopping: asyncio.Event) -> None:
        """Return when every resource that the join needs is listed, or when told to stop."""
        stop = asyncio.create_task(stopping.wait(), name="stop-wait")
        needed = ((name, event) for name, event in self._lists.items() if name in self._needed)
        listed = [asyncio.create_task(event.wait(), name=f"list-{name}") for name, event in needed]
        try:
            for task in listed:
                await asyncio.wait([stop, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stop, *listed):
                task.cancel()

    def heard(self, resource: str) -> None:
        """Note that something came from the API."""
        self._metrics.heard(resource)
        if resource in self._failing:
            self._failing.discard(resource)
            log.info("hearing of %s again", resource)

    def listed(self, resource: str) -> None:
        """Note that a list is complete."""
        self._metrics.relists.labels(resource).inc()
        self._lists[resource].set()
        if resource in self._needed:
            self._service.health.ready(_part(resource))

    def failed(self, resource: str, why: str, line: str) -> None:
        """Say once what does not work; until the first list it also stands against being ready."""
        self._metrics.watch_failures.labels(resource, why).inc()
        if resource in self._needed and not self._lists[resource].is_set():
            self._service.health.waiting(_part(resource), line)
        elif resource not in self._failing and why not in ("gone", "silent"):
            log.warning("%s; going on with what is known", line)
        self._failing.add(resource)

    def _reflector(self, resource: Resource) -> Reflector:
        return Reflector(
            self._clients[resource.name], resource, self._cluster, self, self._settings.kube_silence_seconds
        )


def _part(resource: str) -> str:
    return f"kube-{resource}"
