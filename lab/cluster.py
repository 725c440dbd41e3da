# SPDX-License-Identifier: Apache-2.0
"""A whole lab up and down: network, Kubernetes API, Kafka, zonemeter's services.

Everything of it carries its prefix, so that the next lab can remove it: `up` begins with that, and
ends with it if it fails or is cancelled.
"""

import contextlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson

from collector.host.preflight import check_bpffs
from lab import services, stories
from lab.cidrs import cidr_map
from lab.errors import LabError
from lab.kafka.broker import Broker
from lab.kube.kubeconfig import kubeconfig
from lab.kube.objects import objects, service_object
from lab.kube.store import Object
from lab.network import setup
from lab.network.namespaces import with_prefix
from lab.plan import Plan, Service, check_prefix
from lab.processes import Process, Processes
from lab.readiness import wait_ready
from lab.services import Command, Files, Ports, Tuning

BASE = Path("/run/zonemeter-lab")
PINS = Path("/sys/fs/bpf/zonemeter-lab")
ROOT = Path(__file__).resolve().parent.parent

_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
_CHECKOUT = "checkout"  # the file that says whose code brought a lab up
_PREPARE_SECONDS = 30.0
_STOP_SECONDS = 20.0
_CLEAR_SECONDS = 5.0  # after a crash nothing is worth waiting for
# What a process killed between fork and exec had just started still holds its lock, until it becomes another program.
_RELEASE_SECONDS = 2.0
_STOP_FIRST = ("traffic", "collector", "enricher", "metrics", "flowlog", "audit", "kube-api", "kafka")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Status:
    """What of a lab is there."""

    prefix: str
    namespaces: list[str]
    processes: list[Process]
    pins: int
    expected_roles: list[str]

    @property
    def exists(self) -> bool:
        """Whether anything at all is there."""
        return bool(self.namespaces or self.processes or self.pins or self.expected_roles)

    @property
    def whole(self) -> bool:
        """Whether everything that was brought up, or started since, still runs."""
        dead = [process for process in self.processes if not process.alive]
        return bool(self.expected_roles) and not dead and not self.missing

    @property
    def missing(self) -> list[str]:
        """The roles that were brought up and are not there any more."""
        return sorted(set(self.expected_roles) - {process.role for process in self.processes if process.alive})


async def up(
    plan: Plan,
    ports: Ports | None = None,
    *,
    tuning: Tuning | None = None,
    with_services: bool = True,
    say: Say = lambda _: None,
) -> Files:
    """Bring a lab up, after removing what is left of one with its prefix; `say` gets a line per step.

    Raises `LabError`; then, and when cancelled, nothing of the lab is left.
    """
    ports = ports or Ports()
    with _lock(plan.prefix):
        _remove(plan.prefix, _CLEAR_SECONDS)
        try:
            commands = services.commands(plan, ports, _files(plan.prefix), tuning or Tuning())
            return await _make(plan, ports, commands if with_services else [], say)
        except BaseException:
            _remove(plan.prefix, _CLEAR_SECONDS)
            raise


async def down(prefix: str) -> list[str]:
    """Take a lab down, in the order in which its data flows; return the roles that had to be killed."""
    _check(prefix)
    with _lock(prefix):
        return _remove(prefix, _STOP_SECONDS)


def status(prefix: str) -> Status:
    """Return what is there of a lab, running or left behind."""
    _check(prefix)
    directory, pins = BASE / prefix, PINS / prefix
    described = directory / "lab.json"
    return Status(
        prefix=prefix,
        namespaces=with_prefix(prefix),
        processes=[process for group in _groups(directory) for process in group.recorded()],
        pins=sum(1 for path in pins.rglob("*") if not path.is_dir()),
        expected_roles=orjson.loads(described.read_bytes())["roles"] if described.exists() else [],
    )


def start_traffic(plan: Plan) -> Process:
    """Start a plan's traffic as a process of its lab; raises `LabError` if the lab is not up."""
    described = BASE / plan.prefix / "lab.json"
    if not described.exists():
        raise LabError(f"lab {plan.prefix}: not up; run zonemeter lab up")
    there = {workload.key for workload in plan.workloads}
    whole = stories.make(plan.story, plan.prefix, plan.fabric)
    stopped = [workload.key for workload in whole.workloads if workload.key not in there]
    command = services.module("lab.traffic.streams", described, plan.story, *stopped)
    return processes_of(plan.prefix).start("traffic", command)


async def change(old: Plan, new: Plan) -> None:
    """Take the pods that `new` lacks out of a running lab and change its Services, its API first."""
    started = orjson.loads((BASE / old.prefix / "cluster.json").read_bytes())
    headers = {"Authorization": f"Bearer {started['token']}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{started['port']}", headers=headers) as api:
        for service in set(new.services) - set(old.services):
            path = f"/lab/services/{service.namespace}/{service.name}"
            async with api.put(path, json=_changed(started["objects"], new, service)) as answer:
                if answer.status != 200:
                    raise LabError(f"service {service.name}: the API answers {answer.status}")
        for pod in set(old.pods) - set(new.pods):
            async with api.delete(f"/lab/pods/{pod.namespace}/{pod.name}") as answer:
                if answer.status != 200:
                    raise LabError(f"pod {pod.key}: the API answers {answer.status}")
            setup.remove_pod(old, pod)
    setup.apply_services(new)


def _changed(objects: Iterable[tuple[str, Object]], plan: Plan, service: Service) -> Object:
    """Return a Service's object as it is in the plan; it says when it was changed, as every object does."""
    wanted, key = service_object(plan, service, datetime.now(UTC)), (service.namespace, service.name)
    body = next(
        body
        for resource, body in objects
        if resource == "services" and (body["metadata"]["namespace"], body["metadata"]["name"]) == key
    )
    managed = [*body["metadata"]["managedFields"], *wanted["metadata"]["managedFields"]]
    return wanted | {"metadata": body["metadata"] | {"managedFields": managed}}


def stop(prefix: str, *roles: str, seconds: float = _STOP_SECONDS) -> list[str]:
    """Tell every process of these roles (`collector` is all of them) to end; return those that had to be killed."""
    processes = processes_of(prefix)
    return processes.stop([found for found in processes.recorded() if _is_one_of(found, roles)], seconds)


def processes_of(prefix: str) -> Processes:
    """Return a lab's processes, but for Kafka's."""
    return Processes(BASE / prefix / "processes", _ENVIRONMENT)


def _is_one_of(process: Process, roles: Iterable[str]) -> bool:
    return any(f"{process.role}-".startswith(f"{role}-") for role in roles)


def other_checkout(prefix: str) -> str:
    """Return the directory of the code that brought a lab up, if it is not this one; "" for a lab of one's own."""
    _check(prefix)
    try:
        made_by = (BASE / prefix / _CHECKOUT).read_text()
    except FileNotFoundError:
        return ""
    return "" if made_by == str(ROOT) else made_by


def _files(prefix: str) -> Files:
    return Files(BASE / prefix, PINS / prefix)


def _check(prefix: str) -> None:
    try:
        check_prefix(prefix)
    except ValueError as error:
        raise LabError(str(error)) from error


def _check_ports(plan: Plan, ports: Ports) -> None:
    for name, port in asdict(ports).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise LabError(
                    f"port {port} ({name}): {error.strerror}; free it, or give --free-ports to zonemeter demo or lab up"
                ) from error


async def _make(plan: Plan, ports: Ports, commands: list[Command], say: Say) -> Files:
    files = _files(plan.prefix)
    processes = processes_of(plan.prefix)
    _check_ports(plan, ports)
    files.directory.mkdir(parents=True)
    (files.directory / _CHECKOUT).write_text(str(ROOT))
    setup.create(plan)
    say(f"network: {len(plan.nodes)} nodes, {len(plan.pods)} pods")
    api = _start_api(plan, ports, files, processes)
    broker = Broker(files.directory / "kafka", ports.kafka, ((plan.control_v4, ports.kafka_fabric),))
    broker.launch()
    await wait_ready(processes, [(api, None, ports.api)])
    say(f"Kubernetes API: 127.0.0.1:{ports.api}, {files.kubeconfig}")
    await broker.ready()
    say(f"Apache Kafka: {broker.bootstrap}")
    started = [api]
    if commands:
        processes.call("prepare", services.prepare(ports), _PREPARE_SECONDS)
        started += await _start_services(commands, files, processes)
        others = [process.role for process in started[1:] if not process.role.startswith("collector-")]
        say(f"services: {len(started) - 1 - len(others)} collectors, {', '.join(others)}")
    described = {
        "prefix": plan.prefix,
        "fabric": plan.fabric,
        "ports": asdict(ports),
        "roles": ["kafka", *(process.role for process in started)],
        "commands": [asdict(command) for command in commands],
    }
    (files.directory / "lab.json").write_bytes(orjson.dumps(described, option=orjson.OPT_INDENT_2))
    return files


def _start_api(plan: Plan, ports: Ports, files: Files, processes: Processes) -> Process:
    token = secrets.token_hex(16)
    start = {"port": ports.api, "token": token, "objects": list(objects(plan, datetime.now(UTC)))}
    cluster = files.directory / "cluster.json"
    cluster.write_bytes(orjson.dumps(start))
    files.kubeconfig.write_bytes(kubeconfig(f"http://127.0.0.1:{ports.api}", token))
    files.cidrs.write_bytes(orjson.dumps(cidr_map(plan), option=orjson.OPT_INDENT_2))
    return processes.start("kube-api", services.module("lab.kube.api", cluster))


async def _start_services(commands: list[Command], files: Files, processes: Processes) -> list[Process]:
    check_bpffs(files.pins)
    files.pins.mkdir(parents=True, exist_ok=True)
    started = []
    for command in commands:
        files.state(command.role).mkdir(parents=True)
        started.append(processes.start(command.role, command.argv))
    pairs = zip(started, commands, strict=True)
    await wait_ready(processes, [(process, command.namespace, command.ready_port) for process, command in pairs])
    return started


def _remove(prefix: str, stop_seconds: float) -> list[str]:
    """Remove processes, pins, namespaces and files, in this order: a pinned link keeps its namespace alive."""
    directory, pins = BASE / prefix, PINS / prefix
    killed = []
    for role in _STOP_FIRST:
        for group in _groups(directory):
            stopping = [process for process in group.recorded() if _is_one_of(process, [role])]
            killed += group.stop(stopping, stop_seconds)
    for group in _groups(directory):
        killed += group.stop(group.recorded(), stop_seconds)
    _remove_tree(pins)
    setup.remove(prefix)
    _remove_tree(directory)
    for shared in (PINS, BASE):
        with contextlib.suppress(OSError):  # another lab's, or not there
            shared.rmdir()
    return killed


def _remove_tree(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabError(f"{directory}: cannot be removed: {error.strerror}") from error


def _groups(directory: Path) -> list[Processes]:
    return [Processes(directory / name) for name in ("processes", "kafka")]


@contextlib.contextmanager
def _lock(prefix: str) -> Iterator[None]:
    """Be the only one who changes a lab; an abstract socket is released by any death and leaves no file."""
    if os.geteuid() != 0:
        raise LabError("the lab must run as root: it makes network namespaces; try: sudo")
    with socket.socket(socket.AF_UNIX) as held:
        deadline = time.monotonic() + _RELEASE_SECONDS
        while not _bound(held, f"\0zonemeter-lab/{prefix}"):
            if time.monotonic() > deadline:
                raise LabError(f"lab {prefix}: another process is bringing it up or down")
            time.sleep(_RELEASE_SECONDS / 40)
        yield


def _bound(held: socket.socket, name: str) -> bool:
    try:
        held.bind(name)
    except OSError:
        return False
    return True
