# SPDX-License-Identifier: Apache-2.0
"""One process of a running lab: killed, and started again."""

import orjson

from lab.cluster import BASE, ENVIRONMENT
from lab.processes import Processes
from lab.readiness import wait_ready
from lab.services import Command


def kill(prefix: str, role: str) -> None:
    """SIGKILL the one process of a role."""
    processes = _processes(prefix)
    (found,) = (each for each in processes.recorded() if each.role == role and each.alive)
    processes.kill(found)


async def start(prefix: str, role: str) -> None:
    """Start a service again, by the command line it had, and wait until it is ready; raises `LabError`."""
    described = orjson.loads((BASE / prefix / "lab.json").read_bytes())
    command = next(Command(**entry) for entry in described["commands"] if entry["role"] == role)
    processes = _processes(prefix)
    process = processes.start(role, command.argv, ENVIRONMENT)
    await wait_ready(processes, [(process, command.namespace, command.ready_port, "/readyz")])


def _processes(prefix: str) -> Processes:
    return Processes(BASE / prefix / "processes")
