# SPDX-License-Identifier: Apache-2.0
"""One process of a running lab: killed, and started again."""

import orjson

from lab.cluster import BASE, processes_of
from lab.readiness import wait_ready
from lab.services import Command


def kill(prefix: str, role: str) -> None:
    """SIGKILL the one process of a role."""
    processes = processes_of(prefix)
    (found,) = (each for each in processes.recorded() if each.role == role and each.alive)
    processes.kill(found)


async def start(prefix: str, role: str) -> None:
    """Start a service again, by the command line it had, and wait until it is ready; raises `LabError`."""
    described = orjson.loads((BASE / prefix / "lab.json").read_bytes())
    command = next(Command(**entry) for entry in described["commands"] if entry["role"] == role)
    processes = processes_of(prefix)
    process = processes.start(role, command.argv)
    await wait_ready(processes, [(process, command.namespace, command.ready_port)])
