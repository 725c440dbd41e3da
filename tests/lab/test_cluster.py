# SPDX-License-Identifier: Apache-2.0
"""A whole lab comes up, and nothing of it is left after `down`, a signal, or a kill followed by `down`."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import orjson
import pytest
from kubernetes_asyncio import client, config

from lab import cluster, services
from lab.errors import LabError
from lab.kafka.broker import free_port
from lab.network.namespaces import enter, run, with_prefix
from lab.network.script import control_link
from lab.plan import Plan
from lab.services import Command, Files, Ports
from tests.support.services import DEADLINE_SECONDS

UP = """
import asyncio, sys
from lab import cluster
from lab.interrupts import run_interruptible
from lab.services import Ports
from lab.stories import shop
prefix, fabric, *ports = sys.argv[1:]
def say(line):
    print(line, flush=True)
    if line.startswith("network"):
        sys.stdin.read()  # goes on when that is closed
async def main():
    plan = shop(prefix, int(fabric))
    await cluster.up(plan, Ports(*map(int, ports)), with_services=False, say=say)
    cluster.start_traffic(plan)
    print("up", flush=True)
    await asyncio.Event().wait()
run_interruptible(main())
"""


@pytest.fixture
def ports() -> Ports:
    return Ports.free()


@pytest.fixture(autouse=True)
def nothing_left(plan: Plan) -> Iterator[None]:
    yield
    asyncio.run(cluster.down(plan.prefix))


def left_of(plan: Plan) -> list[str]:
    """Everything that may remain of a lab, wherever it may be."""
    links = [control_link(plan.prefix)] if Path("/sys/class/net", control_link(plan.prefix)).exists() else []
    places = [path for path in (cluster.BASE / plan.prefix, cluster.PINS / plan.prefix) if path.exists()]
    return with_prefix(plan.prefix) + links + [str(path) for path in places] + processes_of(plan)


def processes_of(plan: Plan) -> list[str]:
    marks = [f"{cluster.BASE}/{plan.prefix}/".encode(), f"/run/netns/{plan.prefix}-".encode()]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += [command.decode()] if any(mark in command for mark in marks) else []
    return found


@contextmanager
def in_a_process(plan: Plan, ports: Ports) -> Iterator[subprocess.Popen[str]]:
    """Bring a lab up in a process, which is killed at the end if it still runs: nobody waits for one that hangs.

    When it has said "network" it waits until its stdin is closed.
    """
    argv = [sys.executable, "-c", UP, plan.prefix, str(plan.fabric), *map(str, astuple(ports))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cluster.ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    if line == "up":
        go_on(process)
    late = threading.Timer(DEADLINE_SECONDS, process.kill)
    late.start()
    try:
        assert any(said.startswith(line) for said in process.stdout), f"it never said {line!r}"
    finally:
        late.cancel()


def test_up_serves_an_api_and_kafka_and_down_leaves_nothing(plan: Plan, ports: Ports) -> None:
    async def inside() -> None:
        files = await cluster.up(plan, ports, with_services=False)
        status = cluster.status(plan.prefix)
        assert status.whole
        assert {process.role for process in status.processes} == {"kafka", "kube-api"}
        assert await pods_listed(files) == {pod.name for pod in plan.pods}
        cidrs = {entry["name"]: entry["zone"] for entry in orjson.loads(files.cidrs.read_bytes())["cidr"]}
        assert cidrs == {"kafka": "lab-1a", "orders-db": "lab-1b"}
        assert await brokers_from(plan, ports) == [(plan.control_v4, ports.kafka_fabric)]
        assert cluster.start_traffic(plan).alive
        with pytest.raises(
            LabError, match=r"port \d+ \(kafka\): Address already in use; free it, or give --free-ports"
        ):
            await cluster.up(plan_beside(plan), ports)
        assert cluster.status(plan.prefix).whole
        assert await cluster.down(plan.prefix) == []

    asyncio.run(inside())
    assert left_of(plan) == []
    assert not cluster.status(plan.prefix).exists


def plan_beside(plan: Plan) -> Plan:
    from lab.stories import shop

    return shop(f"{plan.prefix}b", plan.fabric + 20)


async def pods_listed(files: Files) -> set[str]:
    configuration = client.Configuration()
    await config.load_kube_config(str(files.kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as connection:
        core: Any = client.CoreV1Api(connection)
        response = await core.list_pod_for_all_namespaces(_preload_content=False)
        items = orjson.loads(await response.read())["items"]
    return {item["metadata"]["name"] for item in items}


async def brokers_from(plan: Plan, ports: Ports) -> list[tuple[str, int]]:
    """What a client on a node is told to connect to."""
    script = (
        "import asyncio, sys\n"
        "from aiokafka.admin import AIOKafkaAdminClient\n"
        "async def main():\n"
        "    admin = AIOKafkaAdminClient(bootstrap_servers=sys.argv[1])\n"
        "    await admin.start()\n"
        "    for broker in (await admin.describe_cluster())['brokers']: print(broker['host'], broker['port'])\n"
        "    await admin.close()\n"
        "asyncio.run(main())\n"
    )
    with enter(f"{plan.prefix}-node-c1"):
        said = run([sys.executable, "-c", script, f"{plan.control_v4}:{ports.kafka_fabric}"])
    return [(line.split()[0], int(line.split()[1])) for line in said.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_comes_up_leaves_nothing(plan: Plan, ports: Ports, number: signal.Signals) -> None:
    with in_a_process(plan, ports) as process:
        wait_for(process, "network")
        process.send_signal(number)
        go_on(process)
        process.wait(120)
    assert left_of(plan) == []


@pytest.mark.parametrize("when", ["network", "up"])
def test_what_a_killed_process_left_is_removed_by_the_next(plan: Plan, ports: Ports, when: str) -> None:
    with in_a_process(plan, ports) as process:
        wait_for(process, when)
        process.kill()
    assert cluster.status(plan.prefix).exists
    (cluster.PINS / plan.prefix / "node-a1").mkdir(parents=True)
    asyncio.run(cluster.down(plan.prefix))
    assert left_of(plan) == []


def test_up_clears_what_a_killed_one_left(plan: Plan, ports: Ports) -> None:
    with in_a_process(plan, ports) as process:
        wait_for(process, "up")
        process.kill()
    before = {found.role: found for found in cluster.status(plan.prefix).processes}
    asyncio.run(cluster.up(plan, ports, with_services=False))
    after = {found.role: found for found in cluster.status(plan.prefix).processes}
    assert not any(found.alive for found in before.values())
    assert cluster.status(plan.prefix).whole
    assert set(after) == {"kafka", "kube-api"}


def test_a_service_that_ends_takes_the_lab_down_with_its_last_words(
    plan: Plan, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Command("enricher", ("sh", "-c", "echo no index; exit 2"), None, free_port())
    monkeypatch.setattr(services, "prepare", lambda ports: ("true",))
    monkeypatch.setattr(services, "commands", lambda *_: [failing])
    with pytest.raises(LabError, match="enricher: ended: no index"):
        asyncio.run(cluster.up(plan, ports))
    assert left_of(plan) == []


def test_a_lock_that_a_killed_ones_child_still_holds_is_waited_for(plan: Plan) -> None:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(f"\0zonemeter-lab/{plan.prefix}")
        released = threading.Timer(0.3, held.close)
        released.start()
        assert asyncio.run(cluster.down(plan.prefix)) == []
        released.join()


def test_two_at_once_are_refused(plan: Plan, ports: Ports) -> None:
    with in_a_process(plan, ports) as process:
        wait_for(process, "network")
        with pytest.raises(LabError, match="another process is bringing it up or down"):
            asyncio.run(cluster.down(plan.prefix))
        process.terminate()
        go_on(process)
        process.wait(120)


@pytest.mark.parametrize("prefix", ["", "a-b", "../etc"])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(LabError, match="prefix"):
        asyncio.run(cluster.down(prefix))


def test_traffic_needs_a_lab(plan: Plan) -> None:
    with pytest.raises(LabError, match="not up; run zonemeter lab up"):
        cluster.start_traffic(plan)
