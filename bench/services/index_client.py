# SPDX-License-Identifier: Apache-2.0
"""What is measured of the index, each in a process of its own; prints a JSON object.

    python -m bench.services.index_client read|sync|joins PORT KUBECONFIG

`read` is the yardstick: the same pages over HTTP, and orjson.loads of each. `sync` is the enricher's follower and index
until all is listed. `joins` then joins chunks, in the loop that takes in the watch, without and with pod changes.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from statistics import median

import aiohttp
import msgspec
import orjson

from bench.made_up import cluster
from bench.made_up.objects import NODES, PODS_A_NODE, SERVICES
from bench.measure.process import resident_bytes
from common.clock import now_ms
from common.service.running import Service
from enricher import main as enricher
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index, Slot
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.kube.cluster import ClusterView
from enricher.kube.follower import Follower
from enricher.kube.reflector import PAGE_OBJECTS
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from schemas.raw import RawChunk, decode_chunk

CHANGES_A_SECOND = 1000
_OBSERVERS, _WINDOW_MS = 50, 10_000
# The settling is for the addresses that are free for 10 s before they come again.
_SETTLE_SECONDS, _JOIN_SECONDS, _CALM_SECONDS, _TURNS = 12.0, 4.0, 2.0, 5
# Between chunks the service awaits Kafka many times; so does this, in effect, or the watch would starve.
_AWAIT_SECONDS = 0.001
_LONGEST_LIST_SECONDS = 120.0

Found = dict[str, float]


class Enricher:
    """What of an enricher follows the API."""

    def __init__(self, kubeconfig: Path) -> None:
        # All of its modules are loaded, as they are in the service.
        assert callable(enricher.main)
        self.index = Index()
        self.cluster = ClusterView(self.index, live=True)
        self.service = Service("enricher")
        metrics = EnricherMetrics(self.service.registry, self.index)
        self.follower = Follower(self.service, EnricherSettings(kubeconfig=kubeconfig), self.cluster, metrics)
        self.changes = 0
        self.index.listen(self._count)

    def _count(self, _: Slot) -> None:
        self.changes += 1

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Found]:
        """Follow within the block, which begins when all is listed; yields what that took."""
        await self.follower.open()
        wall, cpu = time.monotonic(), time.process_time()
        task = asyncio.create_task(self.follower.run())
        try:
            await asyncio.wait_for(self.follower.all_listed(self.service.stopping), _LONGEST_LIST_SECONDS)
            found = {"wall_seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
            assert self.index.states == NODES * PODS_A_NODE + NODES + SERVICES, self.index.states
            yield found
        finally:
            task.cancel()
            await self.follower.close()


async def read(server: str) -> Found:
    """Read every page and decode it."""
    wall, cpu = time.monotonic(), time.process_time()
    objects = 0
    async with aiohttp.ClientSession() as session:
        for resource in ("services", "nodes", "pods"):
            query = {"limit": str(PAGE_OBJECTS)}
            while True:
                async with session.get(f"{server}/api/v1/{resource}", params=query) as answer:
                    page = orjson.loads(await answer.read())
                objects += len(page["items"])
                if "continue" not in page["metadata"]:
                    break
                query["continue"] = page["metadata"]["continue"]
    assert objects == NODES * PODS_A_NODE + NODES + SERVICES
    return {"wall_seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}


async def sync(kubeconfig: Path) -> Found:
    """List everything into an index."""
    measured = Enricher(kubeconfig)
    async with measured.following() as found:
        held = {"resident": resident_bytes(os.getpid()), "peak": resident_bytes(os.getpid(), peak=True)}
        return found | held


async def joins(server: str, kubeconfig: Path) -> Found:
    """Join with changes and without, in turn; flows per CPU second, and how many slots changed hands in a second."""
    measured = Enricher(kubeconfig)
    resolver = Resolver(measured.index, CidrMap([]))
    chunks = [decode_chunk(chunk.value) for chunk in cluster.chunks(_OBSERVERS, observers=_OBSERVERS, **_SHAPE)]
    async with measured.following():
        gc.freeze()
        await _join(measured, resolver, chunks, _SETTLE_SECONDS)
        await _set_rate(server, CHANGES_A_SECOND)
        await _join(measured, resolver, chunks, _SETTLE_SECONDS)
        still, changing = [], []
        for _ in range(_TURNS):
            changing.append(await _join(measured, resolver, chunks, _JOIN_SECONDS))
            await _set_rate(server, 0)
            await _join(measured, resolver, chunks, _CALM_SECONDS)
            still.append(await _join(measured, resolver, chunks, _JOIN_SECONDS))
            await _set_rate(server, CHANGES_A_SECOND)
            await _join(measured, resolver, chunks, _CALM_SECONDS)
    return {
        "still": median(rate for rate, _ in still),
        "changing": median(rate for rate, _ in changing),
        "changes": median(changes for _, changes in changing),
    }


async def _join(measured: Enricher, resolver: Resolver, chunks: list[RawChunk], seconds: float) -> tuple[float, float]:
    """Join the windows that end now, for so long; return flows per CPU second, and changes of owners per second."""
    changes, flows = measured.changes, 0
    begun, cpu = time.monotonic(), time.process_time()
    for chunk in cycle(chunks):
        end = now_ms()
        window = msgspec.structs.replace(chunk, start_ms=end - _WINDOW_MS, end_ms=end)
        flows += sum(1 for _ in join(window, resolve(window, resolver), 0, 0).values)
        await asyncio.sleep(_AWAIT_SECONDS)
        if time.monotonic() - begun > seconds:
            break
    spent, wall = time.process_time() - cpu, time.monotonic() - begun
    return flows / spent, (measured.changes - changes) / wall


async def _set_rate(server: str, rate: int) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server}/changes?rate={rate}") as answer:
        answer.raise_for_status()


_SHAPE = {"nodes": NODES, "pods_a_node": PODS_A_NODE}


def main() -> None:
    """Measure what the command line says."""
    what, port, kubeconfig = sys.argv[1:]
    server = f"http://127.0.0.1:{port}"
    made = {"read": lambda: read(server), "sync": lambda: sync(Path(kubeconfig))}
    made["joins"] = lambda: joins(server, Path(kubeconfig))
    print(json.dumps(asyncio.run(made[what]())))


if __name__ == "__main__":
    main()
