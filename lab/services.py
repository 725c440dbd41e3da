# SPDX-License-Identifier: Apache-2.0
"""The command lines of zonemeter's own services in the lab: the one place that knows their flags. Pure."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from lab.kafka.broker import free_port
from lab.network import script
from lab.plan import Plan

COLLECTOR_PORT = 9460  # on every node's own loopback


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on this machine's loopback, `kafka_fabric` on the control address of the fabric."""

    kafka: int = 9092
    kafka_fabric: int = 9094
    api: int = 9443
    enricher: int = 9461
    metrics: int = 9464
    flowlog: int = 9465
    audit: int = 9466

    @classmethod
    def free(cls) -> Self:
        """Return ports that nothing listens on now."""
        return cls(*(free_port() for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class Files:
    """Where a lab keeps what its processes read and write."""

    directory: Path
    pins: Path

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig file of the lab's API."""
        return self.directory / "kubeconfig"

    @property
    def cidrs(self) -> Path:
        """The CIDR map of what lies outside the cluster and yet in a zone."""
        return self.directory / "cidrs.json"

    @property
    def logs(self) -> Path:
        """Where the flow log goes."""
        return self.directory / "flows"

    def state(self, role: str) -> Path:
        """Return the directory a role may keep state in."""
        return self.directory / "state" / role


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a demo or a test may want shorter: the window, how long a row waits for its file, how far an audit looks."""

    window_seconds: int = 10
    cut_seconds: int = 10
    audit_minutes: int = 60


@dataclass(frozen=True, slots=True)
class Command:
    """A service: its role, its command line, and where it says that it is ready (namespace None: the root's)."""

    role: str
    argv: tuple[str, ...]
    namespace: str | None
    ready_port: int


def zonemeter(*words: str) -> tuple[str, ...]:
    """Return the command line of a `zonemeter` command, with the interpreter that runs now.

    `-P`: a package that lies in the current directory must not come before ours.
    """
    return (sys.executable, "-P", "-m", "cli", *words)


def module(name: str, *arguments: Path | str) -> tuple[str, ...]:
    """Return the command line of a module of the lab that runs as a process."""
    return (sys.executable, "-P", "-m", name, *map(str, arguments))


def prepare(ports: Ports) -> tuple[str, ...]:
    """Return the command that has to succeed before any service starts."""
    return zonemeter("topics", "apply", "--kafka-bootstrap", f"127.0.0.1:{ports.kafka}")


def commands(plan: Plan, ports: Ports, files: Files, tuning: Tuning) -> list[Command]:
    """Return every service in the order to start them; they are stopped in the same order, so that all drains."""
    collectors = [_collector(plan, node.name, ports, files, tuning) for node in plan.nodes if node.metered]
    common = ("--cluster", plan.cluster, "--kafka-bootstrap", f"127.0.0.1:{ports.kafka}")
    attribution = ("--kubeconfig", str(files.kubeconfig), "--cidr-map", str(files.cidrs))
    return [
        *collectors,
        _in_root("enricher", ports.enricher, *common, *attribution),
        _in_root("metrics", ports.metrics, *common, "--state-dir", str(files.state("metrics")), "--prices", "aws"),
        _in_root(
            "flowlog", ports.flowlog, *common, "--output", str(files.logs), "--cut-seconds", str(tuning.cut_seconds)
        ),
        _in_root("audit", ports.audit, *common, "--check-seconds", "2", "--span-minutes", str(tuning.audit_minutes)),
    ]


def _collector(plan: Plan, node: str, ports: Ports, files: Files, tuning: Tuning) -> Command:
    namespace = script.node_namespace(plan.prefix, node)
    enter = ("nsenter", f"--net=/run/netns/{namespace}")
    words = [
        *("--node", node, "--cluster", plan.cluster, "--listen", f"127.0.0.1:{COLLECTOR_PORT}"),
        *("--pin-dir", str(files.pins / node), "--spool-dir", str(files.state(f"collector-{node}") / "spool")),
        *("--kafka-bootstrap", f"{plan.control_v4}:{ports.kafka_fabric}"),
        *("--window-seconds", str(tuning.window_seconds)),
    ]
    argv = enter + zonemeter("run", "collector", *words)
    return Command(f"collector-{node}", argv, namespace, COLLECTOR_PORT)


def _in_root(role: str, port: int, *words: str) -> Command:
    return Command(role, zonemeter("run", role, "--listen", f"127.0.0.1:{port}", *words), None, port)
