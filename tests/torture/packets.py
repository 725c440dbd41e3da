# SPDX-License-Identifier: Apache-2.0
"""Nemeses of the collector, on the lab: real packets through the real hook, held against the wire."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from lab import cluster
from lab.broker import Broker
from lab.plan import Plan
from lab.processes import Processes
from lab.services import Ports
from lab.stories import shop
from tests.e2e import scenario, test_pipeline
from tests.torture.scenario import Result

Nemesis = Callable[[Plan, Ports, random.Random], Awaitable[float]]
# What must hold of the run, as the end-to-end test has it.
HOLDS = (
    test_pipeline.test_between_pods_every_byte_and_packet_is_what_the_wire_saw,
    test_pipeline.test_the_ledger_closes_after_a_kill_of_every_service,
    test_pipeline.test_no_id_appears_twice_in_the_flow_log_and_none_is_missing,
    test_pipeline.test_prometheus_has_exactly_what_the_topic_has,
)
PLAN = shop("zmtort", 219)


async def kill_collector(plan: Plan, _: Ports, rng: random.Random) -> float:
    """SIGKILL any node's collector at any moment; some while they still recover."""
    role = _collector(plan, rng)
    await asyncio.to_thread(cluster.kill, plan.prefix, role)
    await asyncio.sleep(rng.uniform(0.0, 2.5 * scenario.WINDOW_SECONDS))
    seconds = await _started(plan, role)
    if rng.random() < 0.3:
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        await asyncio.to_thread(cluster.kill, plan.prefix, role)
        return await _started(plan, role)
    return seconds


async def pause_collector(plan: Plan, _: Ports, rng: random.Random) -> float:
    """SIGSTOP a collector for several windows."""
    role = _collector(plan, rng)
    [found] = [each for each in Processes(cluster.BASE / plan.prefix / "processes").recorded() if each.role == role]
    os.kill(found.pid, signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(2.0, 5.0) * scenario.WINDOW_SECONDS)
    os.kill(found.pid, signal.SIGCONT)
    return 0.0


async def kill_kafka(plan: Plan, ports: Ports, rng: random.Random) -> float:
    """SIGKILL the broker and keep it away for several windows, which go to the spool; kill a collector meanwhile."""
    directory = cluster.BASE / plan.prefix / "kafka"
    processes = Processes(directory)
    for found in processes.recorded():
        processes.kill(found)
    await asyncio.sleep(rng.uniform(1.0, 4.0) * scenario.WINDOW_SECONDS)
    role = _collector(plan, rng)
    await asyncio.to_thread(cluster.kill, plan.prefix, role)
    broker = Broker(directory, ports.kafka, ((plan.control_v4, ports.kafka_fabric),))
    await broker.start()
    return await _started(plan, role)


async def _started(plan: Plan, role: str) -> float:
    """Start a role and return how long it takes to be ready."""
    begun = time.monotonic()
    await cluster.start(plan.prefix, role)
    return time.monotonic() - begun


def _collector(plan: Plan, rng: random.Random) -> str:
    return f"collector-{rng.choice([node.name for node in plan.nodes if node.metered])}"


def run(name: str, nemesis: Nemesis, times: int, seed: int, directory: Path) -> Result:
    """Do it `times` times while packets flow, then hold everything against the wire."""
    begun, rng = time.monotonic(), random.Random(seed)
    recoveries: list[float] = []
    flows, repeated, fault = 0, 0, None

    async def meanwhile(plan: Plan, ports: Ports) -> None:
        for _ in range(times):
            await asyncio.sleep(rng.uniform(0.2, 1.5 * scenario.WINDOW_SECONDS))
            recoveries.append(await nemesis(plan, ports, rng))

    try:
        facts = asyncio.run(scenario.run(scenario.with_unmetered_nodes(PLAN), directory, meanwhile))
        flows = len({flow["id"] for flow in facts.flows})
        repeated = len(facts.flows) - flows
        for holds in HOLDS:
            holds(facts)
    except Exception as error:  # noqa: BLE001 - one scenario's failure must not end the others
        fault = " ".join(f"{type(error).__name__}: {error}".split())
    return Result(name, times, time.monotonic() - begun, recoveries, flows, repeated, fault)
