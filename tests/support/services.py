# SPDX-License-Identifier: Apache-2.0
"""A service as a process of its own, and waiting for conditions."""

import http.client
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from lab.kafka.broker import free_port
from tests.support.forked import Forked

ROOT = Path(__file__).resolve().parents[2]
# For a machine on which everything takes ten times as long: only a test that fails ever waits for so long.
DEADLINE_SECONDS = 120.0
# What Kubernetes gives a pod to end (terminationGracePeriodSeconds); then it is killed.
GRACE_SECONDS = 30.0

_PACKAGES = ("cli", "tests")

T = TypeVar("T")
Samples = dict[tuple[str, tuple[str, ...]], float]


def eventually(check: Callable[[], T | None], seconds: float = DEADLINE_SECONDS) -> T:
    """Call `check` until it returns something true, and return that; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: last seen {found!r}"
        pause(began)


def pause(began: float) -> None:
    """Wait before the next look, after one that began then: three times as long as the look took.

    One that reads a topic or a page of metrics has the broker and the service compute, too, and would take the
    processors from what it waits for.
    """
    time.sleep(min(max(0.03, 3 * (time.monotonic() - began)), 1.0))


def readable(descriptor: int, seconds: float = DEADLINE_SECONDS) -> bool:
    """Wait until there is something to read, or the end of it, and return whether there is.

    By poll(2): select(2) takes no descriptor above 1023, and a process that has run a thousand tests has such.
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


class ServiceProcess:
    """A service, started by a module and its arguments; flags come after `--listen` (default: any free port).

    A module of this repository is forked; one that a test wrote has an interpreter of its own, and so has one whose
    output goes into a pipe.
    """

    def __init__(
        self,
        module: Sequence[str],
        flags: Sequence[str],
        log: Path,
        stdout: Path | int | None = None,
        listen: str | None = None,
    ) -> None:
        self.listen = listen or f"127.0.0.1:{free_port()}"
        self.log = log
        self._words = [*module, "--listen", self.listen, *flags]
        self._stdout = stdout
        self.process = self._launch()

    def _launch(self) -> "Forked | subprocess.Popen[bytes]":
        if self._words[0].partition(".")[0] in _PACKAGES and not isinstance(self._stdout, int):
            return Forked(self._words, ROOT, self._stdout or Path(os.devnull), self.log)
        command = [sys.executable, "-m", *self._words]
        with ExitStack() as files:
            stderr = files.enter_context(self.log.open("ab"))
            path = self._stdout
            out = files.enter_context(path.open("ab")) if isinstance(path, Path) else path or subprocess.DEVNULL
            return subprocess.Popen(command, cwd=ROOT, stderr=stderr, stdout=out)

    def restart(self) -> None:
        """Kill it and start it again, with the same arguments."""
        self.kill()
        self.process = self._launch()

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a path; status 0 if nothing listens, or not for as long as it answers."""
        try:
            with urllib.request.urlopen(f"http://{self.listen}{path}", timeout=DEADLINE_SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""

    def samples(self) -> Samples:
        """Return what /metrics shows, by name and label values."""
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }

    def ready(self) -> bool:
        """Whether it says that it is ready; fails if it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        return self.get("/readyz")[0] == 200

    def peak_bytes(self) -> int:
        """Return the most memory that it ever held (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def stands_still(self) -> bool:
        """Return whether it has been stopped (SIGSTOP), by itself or another; fails if it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        return ") T " in Path(f"/proc/{self.process.pid}/stat").read_text()

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(seconds)

    def terminate(self) -> int:
        """Ask it to stop, wait as long as Kubernetes does, and return its exit status."""
        self.process.terminate()
        return self.wait(GRACE_SECONDS)

    def kill(self) -> None:
        """Kill it, wherever it is; one that has ended by itself is left."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


P = TypeVar("P", bound=ServiceProcess)


@contextmanager
def while_running(service: P) -> Iterator[P]:
    """Give the service while the context lasts; it is killed if it still runs then."""
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.kill()
