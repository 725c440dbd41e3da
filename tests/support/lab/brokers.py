# SPDX-License-Identifier: Apache-2.0
"""Several Kafka brokers with one controller: leaders that move, replicas that lag.

The controller is a process of its own, as in Kafka's own system tests, so that no broker's death takes the quorum with
it. On two cores: start them once and keep them.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from lab.kafka.broker import (
    Broker,
    as_properties,
    controller_settings,
    format_data,
    free_port,
    serve_command,
)
from lab.processes import Process, Processes

# Internal topics as they are in production: a group's positions survive any one broker.
_REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # How long a follower may be behind before the leader goes on without it.
    "replica.lag.time.max.ms": "4000",
}


_CONTROLLER_ID = 100


@dataclass
class Brokers:
    """A controller and `size` brokers below `directory`; node ids of brokers are 1 to `size`."""

    directory: Path
    size: int = 3
    settings: dict[str, str] = field(default_factory=dict)
    members: list[Broker] = field(default_factory=list)
    _controller: Process | None = None

    @property
    def bootstrap(self) -> str:
        """The addresses of all."""
        return ",".join(broker.bootstrap for broker in self.members)

    async def start(self) -> None:
        """Start the controller, then the brokers, one after the other; raises `LabError`."""
        port = free_port()
        await asyncio.to_thread(self._start_controller, port)
        settings = _REPLICATED | self.settings
        for number in range(1, self.size + 1):
            own = self.directory / f"broker-{number}"
            broker = Broker(own, free_port(), settings=settings, node_id=number, controller=(_CONTROLLER_ID, port))
            self.members.append(broker)
            await broker.start()

    async def leader(self, topic: str, partition: int) -> int:
        """Return the node id of a partition's leader, -1 while there is none or nobody answers."""
        alive = ",".join(broker.bootstrap for broker in self.members if broker.alive)
        admin = AIOKafkaAdminClient(bootstrap_servers=alive)
        try:
            await admin.start()
            [described] = await admin.describe_topics([topic])
            return next(int(each["leader"]) for each in described["partitions"] if each["partition"] == partition)
        except (KafkaError, StopIteration):
            return -1
        finally:
            await admin.close()

    def member(self, node_id: int) -> Broker:
        """Return a broker by its node id."""
        return self.members[node_id - 1]

    def kill(self) -> None:
        """Kill them all with SIGKILL."""
        for broker in self.members:
            broker.kill()
        if self._controller is not None:
            Processes(self.directory / "controller").kill(self._controller)
            self._controller = None

    def _start_controller(self, port: int) -> None:
        directory = self.directory / "controller"
        directory.mkdir(parents=True)
        processes, properties = Processes(directory), directory / "server.properties"
        lines = {
            "process.roles": "controller",
            "node.id": str(_CONTROLLER_ID),
            "listeners": f"CONTROLLER://127.0.0.1:{port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            **controller_settings(_CONTROLLER_ID, port, directory),
            **_REPLICATED,
            **self.settings,
        }
        properties.write_text(as_properties(lines))
        format_data(directory, _CONTROLLER_ID)
        self._controller = processes.start("kafka", serve_command(properties))
