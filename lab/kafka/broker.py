# SPDX-License-Identifier: Apache-2.0
"""Apache Kafka from its jars: one KRaft broker on this machine, for the lab and for tests.

`scripts/setup` fetches the jars that `lab/kafka/pom.xml` names. Small on purpose: on two cores it serves in under
three seconds with some 200 MB resident. Nothing of it is tuned for load.
"""

import asyncio
import base64
import random
import shutil
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from lab.errors import LabError
from lab.processes import Process, Processes

_ROOT = Path(__file__).resolve().parents[2]
JARS = _ROOT / ".cache/kafka"
# Kafka's classes as the JVM has them in memory: a start takes a third less CPU (class_archive.py).
CLASS_ARCHIVE = JARS / "classes.jsa"
# What formatting a data directory says of Kafka's features, the same for every broker (class_archive.py).
FEATURES = JARS / "bootstrap.checkpoint"
_LOG_CONFIG = _ROOT / "lab/kafka/log4j2.xml"
_ROLE = "kafka"
_JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true"]
_HEAP = ["-Xms96m", "-Xmx256m"]
_READY_SECONDS = 90.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0
_FORMAT_SECONDS = 30.0


def _id(of: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(of.bytes).decode().rstrip("=")


_CLUSTER_ID = _id(uuid.uuid5(uuid.NAMESPACE_DNS, "zonemeter.lab"))


@dataclass
class Broker:
    """A broker and controller in one process. `directory` becomes its alone: settings, data, log, process record.

    `port` is on 127.0.0.1 (0: any free one). Each of `more_listeners` is an address and port that clients reach it by
    in another way. `advertised` maps a port to what its clients are told instead, a proxy's port; other listeners are
    advertised as themselves. `settings` are added to server.properties, `jvm` to Java's options. Of several brokers
    each has a `node_id`, and `controller` is the id and port of the one controller that they have in common.
    """

    directory: Path
    port: int = 0
    more_listeners: tuple[tuple[str, int], ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    jvm: tuple[str, ...] = ()
    advertised: dict[int, int] = field(default_factory=dict)
    node_id: int = 1
    controller: tuple[int, int] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients on this machine."""
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Format the directory if it is new and start the broker; `ready` waits for it. Raises `LabError`."""
        command = serve_command(self.directory / "server.properties", self.jvm)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        properties = self.directory / "server.properties"
        if not (self.directory / "data/meta.properties").exists():
            properties.write_text(self._properties())
            format_data(self.directory, self.node_id)
        self.process = self._processes.start(_ROLE, command)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.alive

    async def ready(self) -> None:
        """Wait until it answers a client; raises `LabError` if it ends or takes too long."""
        assert self.process is not None
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while not await self._answers():
            if not self.process.alive:
                raise LabError(f"Kafka on port {self.port} ended: {self._processes.last_words(_ROLE)}")
            if asyncio.get_running_loop().time() > deadline:
                raise LabError(f"Kafka on port {self.port} is not ready after {_READY_SECONDS:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def start(self) -> None:
        """Launch it and wait until it is ready."""
        await asyncio.to_thread(self.launch)
        await self.ready()

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Stop it in order (SIGTERM), by force if it does not end in time; its data stays for the next start."""
        if self.process:
            self._processes.stop([self.process], seconds)
            self.process = None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process:
            self._processes.kill(self.process)
            self.process = None

    @property
    def _processes(self) -> Processes:
        return Processes(self.directory)

    async def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=2000)
        try:
            await admin.start()
            return bool((await admin.describe_cluster())["brokers"])
        except (KafkaError, OSError):
            return False
        finally:
            await admin.close()

    def _properties(self) -> str:
        named = {"PLAINTEXT": ("127.0.0.1", self.port)}
        named |= {f"EXTRA{number}": listener for number, listener in enumerate(self.more_listeners)}
        told = {name: (host, self.advertised.get(port, port)) for name, (host, port) in named.items()}
        controller, port = self.controller or (self.node_id, free_port())
        own = {} if self.controller else {"CONTROLLER": ("127.0.0.1", port)}
        lines = {
            "process.roles": "broker" if self.controller else "broker,controller",
            "node.id": str(self.node_id),
            "listeners": _listeners(named | own),
            "advertised.listeners": _listeners(told | own),
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", *named)),
            **controller_settings(controller, port, self.directory),
            **self.settings,
        }
        return as_properties(lines)


def format_data(directory: Path, node_id: int) -> None:
    """Make the data directory of a new broker or controller; raises `LabError`.

    As Kafka's tool does, which is a JVM of its own for three lines: it takes half as much CPU as the broker's start.
    """
    if not FEATURES.exists():
        Processes(directory).call("kafka-format", _format_command(directory / "server.properties"), _FORMAT_SECONDS)
        return
    data = directory / "data"
    data.mkdir(exist_ok=True)
    shutil.copyfile(FEATURES, data / FEATURES.name)
    lines = {"version": "1", "cluster.id": _CLUSTER_ID, "node.id": str(node_id), "directory.id": _id(uuid.uuid4())}
    partial = data / "meta.properties.partial"
    partial.write_text(as_properties(lines))
    partial.replace(data / "meta.properties")


def _format_command(properties: Path) -> list[str]:
    tool = [_java(), "-Xmx96m", *_jvm(), "-cp", _classes(), "kafka.tools.StorageTool", "format"]
    return [*tool, "-t", _CLUSTER_ID, "-c", str(properties)]


def serve_command(properties: Path, jvm: Sequence[str] = ()) -> list[str]:
    """Return the command of a broker or a controller; raises `LabError` if Java or the jars are not there."""
    java, classes = _java(), _classes()
    log = f"-Dlog4j2.configurationFile={_LOG_CONFIG}"
    return [java, *_HEAP, *_jvm(), *jvm, log, "-cp", classes, "kafka.Kafka", str(properties)]


def controller_settings(node_id: int, port: int, directory: Path) -> dict[str, str]:
    """Return what every process of a cluster is told: which its controller is and where, and its own data."""
    return {
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"{node_id}@127.0.0.1:{port}",
        "log.dirs": str(directory / "data"),
        **_SMALL,
    }


def as_properties(lines: dict[str, str]) -> str:
    """Return settings as a Java properties file."""
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _listeners(named: Mapping[str, tuple[str, int]]) -> str:
    return ",".join(f"{name}://{host}:{port}" for name, (host, port) in named.items())


# Kafka's defaults are for a cluster of three and for gigabytes of heap: with them one broker would not even start
# its groups (internal topics want three replicas).
_SMALL = {
    # Nothing goes by age while a lab or a test lives: tests write windows of a fixed day, longer ago every day.
    "log.initial.task.delay.ms": "86400000",
    "log.retention.check.interval.ms": "86400000",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "log.cleaner.threads": "1",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.segment.bytes": "67108864",
    # After a kill -9 the controller takes the broker back only when the old session is over (9 s by default).
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2000",
}


# Below the range from which the kernel takes a client's port (ip_local_port_range): else a connection could take a
# port between its being found free and its being listened on.
_PORTS = range(15_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on now and that no running process has been given.

    It is this process's until that ends, whether or not something listens on it: tests and labs side by side start
    hundreds of servers.
    """
    while True:
        port = random.choice(_PORTS)  # noqa: S311 (spreads test runs, keeps no secret)
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                claim.bind(f"\0zonemeter-port-{port}")
                probe.bind((host, port))
            except OSError:
                claim.close()
                continue
        # The kernel keeps the names of abstract sockets unique, this one for as long as the descriptor is open.
        claim.detach()
        return port


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise LabError("java: command not found; Kafka needs Java 17 or newer: run scripts/setup")
    return java


def _jvm() -> list[str]:
    return [*_JVM, f"-XX:SharedArchiveFile={CLASS_ARCHIVE}"] if CLASS_ARCHIVE.exists() else _JVM


def _classes() -> str:
    if not any(JARS.glob("kafka_*.jar")):
        raise LabError(f"{JARS}: Apache Kafka's jars are not there; run scripts/setup")
    return str(JARS / "*")
