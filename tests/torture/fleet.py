# SPDX-License-Identifier: Apache-2.0
"""The services under torture as processes: each has a role, a fixed address, and can be killed, paused and started."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.kafka.broker import free_port
from tests.support.services import ServiceProcess, eventually

READY_SECONDS = 90.0


class Fleet:
    """Services by role, such as `metrics-0`. `flags` gives a role's flags at each start."""

    def __init__(self, directory: Path, flags: Callable[[str], list[str]]) -> None:
        self._directory = directory
        self._flags = flags
        self._listen: dict[str, str] = {}
        self.running: dict[str, ServiceProcess] = {}

    def listen(self, role: str) -> str:
        """Return where a role serves its metrics, always the same."""
        return self._listen.setdefault(role, f"127.0.0.1:{free_port()}")

    def start(self, *roles: str) -> None:
        """Start these roles; `ready` waits for them."""
        for role in roles:
            room = role.partition("-")[0]
            log = self._directory / f"{role}.log"
            self.running[role] = ServiceProcess(["cli", "run", room], self._flags(role), log, listen=self.listen(role))

    def ready(self, *roles: str) -> None:
        """Wait until these roles say that they are ready; all of them if none is named."""
        for role in roles or self.running:
            eventually(self.running[role].ready, READY_SECONDS)

    def kill(self, role: str) -> None:
        """SIGKILL."""
        self.running.pop(role).kill()

    def terminate(self, *roles: str) -> dict[str, int]:
        """Ask these to end, all at once, and return their exit statuses."""
        # Out of those that run first: another thread looks meanwhile who has ended by himself.
        ending = {role: self.running.pop(role) for role in roles}
        for service in ending.values():
            service.process.terminate()
        return {role: service.wait(READY_SECONDS) for role, service in ending.items()}

    @contextmanager
    def paused(self, role: str) -> Iterator[None]:
        """Keep a process from running (SIGSTOP) while the context lasts."""
        process = self.running[role].process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def roles(self, room: str) -> list[str]:
        """Return the running roles of a room."""
        return sorted(role for role in self.running if role.startswith(f"{room}-"))

    def dead(self) -> list[str]:
        """Return who ended by himself, with his last words."""
        return [
            f"{role} ended with status {service.process.returncode}: {service.log.read_text()[-500:]}"
            for role, service in list(self.running.items())
            if service.process.poll() is not None
        ]

    def close(self) -> None:
        """Kill whatever runs."""
        for role in list(self.running):
            self.kill(role)
