# SPDX-License-Identifier: Apache-2.0
"""Nemeses of the collector, on the lab: real packets through the real hook, held against the wire."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from lab import cluster
from lab.kafka.broker import Broker
from lab.plan import Plan
from lab.processes import Processes
from lab.services import Files, Ports
from tests.e2e import scenario, test_pipeline
from tests.support.lab import roles
from tests.support.labs import own_plan
from tests.support.services import eventually
from tests.support.sinks.disk import small_disk
from tests.torture.nemeses.brokers import fill_up
from tests.torture.scenario import Result

Nemesis = Callable[[Plan, Ports, random.Random], Awaitable[float]]
# What must hold of the run, as the end-to-end test has it.
HOLDS = (
    test_pipeline.test_between_pods_every_byte_and_packet_is_what_the_wire_saw,
    test_pipeline.test_the_ledger_closes_after_a_kill_of_every_service,
    test_pipeline.test_no_id_appears_twice_in_the_flow_log_and_none_is_missing,
    test_pipeline.test_prometheus_has_exactly_what_the_topic_has,
)
_DEADLINE_SECONDS = 120.0
# What a collector logs of a window that is longer than it should be, once it is safe.
_LONG_WINDOW = '"message":"window '


async def kill_collector(plan: Plan, _: Ports, rng: random.Random) -> float:
    """SIGKILL any node's collector at any moment; some while they still recover."""
    role = _collector(plan, rng)
    await asyncio.to_thread(roles.kill, plan.prefix, role)
    await asyncio.sleep(rng.uniform(0.0, 2.5 * scenario.WINDOW_SECONDS))
    seconds = await _started(plan, role)
    if rng.random() < 0.3:
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        await asyncio.to_thread(roles.kill, plan.prefix, role)
        return await _started(plan, role)
    return seconds


async def pause_collector(plan: Plan, _: Ports, rng: random.Random) -> float:
    """SIGSTOP a collector for several windows; return how long, once it wakes, until that time's window is safe."""
    role = _collector(plan, rng)
    before = _log(plan, role).count(_LONG_WINDOW)
    [found] = [each for each in Processes(cluster.BASE / plan.prefix / "processes").recorded() if each.role == role]
    os.kill(found.pid, signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(2.0, 5.0) * scenario.WINDOW_SECONDS)
    os.kill(found.pid, signal.SIGCONT)
    begun = time.monotonic()
    await _eventually(lambda: _log(plan, role).count(_LONG_WINDOW) > before)
    return time.monotonic() - begun


async def remove_pins(plan: Plan, _: Ports, rng: random.Random) -> float:
    """Remove all that a collector has pinned, or some of it; return how long until it is back."""
    root = Files(cluster.BASE / plan.prefix, cluster.PINS / plan.prefix).pins / _collector(plan, rng).partition("-")[2]
    pinned = [path for path in root.rglob("*") if not path.is_dir()]
    for path in pinned if rng.random() < 0.5 else rng.sample(pinned, rng.randint(1, len(pinned))):
        path.unlink(missing_ok=True)
    begun = time.monotonic()
    await _eventually(lambda: all(path.exists() for path in pinned))
    return time.monotonic() - begun


async def kill_kafka(plan: Plan, ports: Ports, rng: random.Random) -> float:
    """SIGKILL the broker and keep it away for several windows, which go to the spool; kill a collector meanwhile.

    Returned is how long it takes, once Kafka is back, until nothing waits any more.
    """
    async with _no_kafka(plan, ports):
        await asyncio.sleep(rng.uniform(1.0, 4.0) * scenario.WINDOW_SECONDS)
        role = _collector(plan, rng)
        await asyncio.to_thread(roles.kill, plan.prefix, role)
    begun = time.monotonic()
    await _started(plan, role)
    await _eventually(lambda: not _spooled(cluster.BASE / plan.prefix / "state"))
    return time.monotonic() - begun


async def fill_spool(plan: Plan, ports: Ports, rng: random.Random) -> float:
    """Kafka away and the spool's disk full: windows grow in the kernel until there is room, then wait on the disk.

    Returned is how long it takes, once Kafka is back, until nothing waits any more.
    """
    role = _collector(plan, rng)
    spool = Files(cluster.BASE / plan.prefix, cluster.PINS / plan.prefix).state(role) / "spool"
    # A disk over the spool's directory hides what is in it, so it comes and goes while no collector lives.
    await _kill_with_nothing_spooled(plan, role, spool)
    with small_disk(spool, "4m"):
        await _started(plan, role)
        filler = spool / "filler"
        fill_up(filler)
        async with _no_kafka(plan, ports):
            await _eventually(lambda: "No space left on device: windows grow in the kernel" in _log(plan, role))
            await asyncio.sleep(rng.uniform(1.0, 3.0) * scenario.WINDOW_SECONDS)
            assert not _spooled(spool), "the disk was not full"
            filler.unlink()
            await _eventually(lambda: _spooled(spool))
        begun = time.monotonic()
        await _eventually(lambda: not _spooled(spool))
        seconds = time.monotonic() - begun
        await _kill_with_nothing_spooled(plan, role, spool)
    await _started(plan, role)
    return seconds


@asynccontextmanager
async def _no_kafka(plan: Plan, ports: Ports) -> AsyncIterator[None]:
    directory = cluster.BASE / plan.prefix / "kafka"
    processes = Processes(directory)
    for found in processes.recorded():
        processes.kill(found)
    yield
    await Broker(directory, ports.kafka, ((plan.control_v4, ports.kafka_fabric),)).start()


async def _kill_with_nothing_spooled(plan: Plan, role: str, spool: Path) -> None:
    while True:
        await _eventually(lambda: not _spooled(spool))
        await asyncio.to_thread(roles.kill, plan.prefix, role)
        if not _spooled(spool):
            return
        await _started(plan, role)


async def _eventually(check: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, lambda: bool(check()), _DEADLINE_SECONDS)


def _spooled(spool: Path) -> list[Path]:
    return list(spool.rglob("*.window"))


def _log(plan: Plan, role: str) -> str:
    return Processes(cluster.BASE / plan.prefix / "processes").log(role).read_text()


async def _started(plan: Plan, role: str) -> float:
    """Start a role and return how long it takes to be ready."""
    begun = time.monotonic()
    await roles.start(plan.prefix, role)
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
        with own_plan() as plan:
            facts = asyncio.run(scenario.run(scenario.with_unmetered_nodes(plan), directory, meanwhile))
        flows = len({flow["id"] for flow in facts.flows})
        repeated = len(facts.flows) - flows
        for holds in HOLDS:
            holds(facts)
    except Exception as error:  # noqa: BLE001 - one scenario's failure must not end the others
        fault = " ".join(f"{type(error).__name__}: {error}".split())
    return Result(name, times, time.monotonic() - begun, recoveries, flows, repeated, fault)
