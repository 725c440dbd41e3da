# SPDX-License-Identifier: Apache-2.0
"""An enricher as a process of its own."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from schemas.topology import TopologyState, encode_topology_file
from tests.support.enricher.build import node, pod
from tests.support.services import ServiceProcess, while_running

STATES = [
    node("node-a1", "192.168.0.11", "eu-west-1a", pod_cidrs=("10.42.1.0/24",)),
    node("node-b1", "192.168.0.21", "eu-west-1b", pod_cidrs=("10.42.2.0/24",)),
    pod("api-7d9f8b6c5-x2x9q", "10.42.1.17", "node-a1"),
    pod("postgres-0", "10.42.2.9", "node-b1"),
]


class Enricher(ServiceProcess):
    """`zonemeter run enricher`, or another module that does as much with a fault built in."""

    def __init__(self, flags: Sequence[str], log: Path, module: Sequence[str] = ("cli", "run", "enricher")) -> None:
        # The tests' windows are of a fixed day: an owner that ended then must not be forgotten by today's date.
        super().__init__(module, ["--history-hours", "1000000", *flags], log)

    def metric(self, name: str, *labels: str) -> float:
        """Return a sample of /metrics; 0 if it is not there."""
        return self.samples().get((f"zonemeter_enricher_{name}", labels), 0.0)


def running(flags: Sequence[str], log: Path, crash: str | None = None) -> AbstractContextManager[Enricher]:
    """Run an enricher while the context lasts; it is killed if it still runs then."""
    return while_running(Enricher(flags, log, *([["tests.support.enricher.crashing", crash]] if crash else [])))


def topology_file(directory: Path, states: Sequence[TopologyState] = STATES) -> Path:
    """Write a `--topology` file."""
    path = directory / "topology.json"
    path.write_bytes(encode_topology_file(list(states)))
    return path
