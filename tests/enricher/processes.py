# SPDX-License-Identifier: Apache-2.0
"""An enricher as a process of its own, and waiting for conditions."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from lab.broker import free_port
from schemas.topology import TopologyState, encode_topology_file
from tests.enricher.build import node, pod

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 30.0
STATES = [
    node("node-a1", "192.168.0.11", "eu-west-1a", pod_cidrs=["10.42.1.0/24"]),
    node("node-b1", "192.168.0.21", "eu-west-1b", pod_cidrs=["10.42.2.0/24"]),
    pod("api-7d9f8b6c5-x2x9q", "10.42.1.17", "node-a1"),
    pod("postgres-0", "10.42.2.9", "node-b1"),
]

T = TypeVar("T")


def eventually(check: Callable[[], T | None], seconds: float = DEADLINE_SECONDS) -> T:
    """Call `check` until it returns something true, and return that; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: last seen {found!r}"
        time.sleep(0.05)


class Enricher:
    """`zonemeter run enricher`, or the same with a crash built in (see tests.enricher.crashing)."""

    def __init__(self, flags: Sequence[str], log: Path, crash: str | None = None) -> None:
        self.listen = f"127.0.0.1:{free_port()}"
        self.log = log
        module = ["-m", "tests.enricher.crashing", crash] if crash else ["-m", "cli", "run", "enricher"]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *module, "--listen", self.listen, *flags], cwd=ROOT, stderr=stderr
            )

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a path; status 0 if nothing listens."""
        try:
            with urllib.request.urlopen(f"http://{self.listen}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, *labels: str) -> float:
        """Return a sample of /metrics; 0 if it is not there."""
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == f"zonemeter_enricher_{name}" and tuple(sample.labels.values()) == labels:
                    return sample.value
        return 0.0

    def ready(self) -> bool:
        """Whether it says that it is ready; fails if it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        return self.get("/readyz")[0] == 200

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(seconds)

    def terminate(self) -> int:
        """Ask it to stop, wait, and return its exit status."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """Kill it, wherever it is."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(flags: Sequence[str], log: Path, crash: str | None = None) -> Iterator[Enricher]:
    """Run an enricher while the context lasts; it is killed if it still runs then."""
    enricher = Enricher(flags, log, crash)
    try:
        yield enricher
    finally:
        if enricher.process.poll() is None:
            enricher.kill()


def topology_file(directory: Path, states: Sequence[TopologyState] = STATES) -> Path:
    """Write a `--topology` file."""
    path = directory / "topology.json"
    path.write_bytes(encode_topology_file(list(states)))
    return path
