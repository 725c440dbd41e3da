# SPDX-License-Identifier: Apache-2.0
"""`zonemeter lab up|down|status|traffic|synth`."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.clock import now_ms
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.checked import checked
from common.settings import IdPart, KafkaSettings, Settings
from common.terminal import complain, say
from lab import cluster, stories
from lab.interrupts import run_interruptible
from lab.plan import Plan, check_prefix
from lab.services import Ports, Tuning
from lab.synth.cluster import MOST_NODES, MOST_PODS_A_NODE, ZONES, SynthCluster
from lab.synth.publish import publish
from lab.synth.traffic import MOST_FLOWS, WINDOW_MS, Traffic
from lab.traffic.streams import run_until_signal
from schemas.topology import encode_topology_file

LabPrefix = Annotated[str, checked(check_prefix)]


class LabSettings(Settings):
    """A cluster of network namespaces on this machine, with real packets, a Kubernetes API and Apache Kafka."""

    story: Literal["shop", "found", "mended"] = Field("shop", description="which cluster it is: see lab/stories.py")
    prefix: LabPrefix = Field("zm", description="what every namespace, process record and pin of this lab begins with")
    fabric: int = Field(50, ge=0, le=255, description="the lab's network is 192.168.FABRIC.0/24")


class UpSettings(LabSettings):
    """Bring the lab up, after removing what is left of one with its prefix."""

    services: bool = Field(True, description="also the topics and zonemeter's own services")
    free_ports: bool = Field(False, description="listen on ports that are free now, not on the usual ones")
    window_seconds: int = Field(10, ge=1, le=60, description="length of a window; divides 60")


class DownSettings(LabSettings):
    """Take a lab down, including one that another process brought up; leave nothing behind."""

    of_this_checkout: bool = Field(False, description="only if this directory's own code brought it up")


class SynthSettings(KafkaSettings):
    """Publish raw windows of a made-up cluster, as its collectors would, and its topology; no packet is sent."""

    cluster: IdPart = Field("default", description="the cluster's name; the first part of every flow id")
    nodes: int = Field(100, ge=len(ZONES), le=MOST_NODES, description="nodes of the cluster, in three zones")
    pods: int = Field(
        2_000,
        ge=len(ZONES),
        le=MOST_NODES * MOST_PODS_A_NODE,
        description=f"pods of the cluster: one a node at least, {MOST_PODS_A_NODE} at most",
    )
    flows: int = Field(35, ge=1, le=MOST_FLOWS, description="flows of each window, which is one node's")
    windows: int = Field(
        6, ge=1, le=8640, description="windows of each node; the last one ends now; with --live the first one does"
    )
    live: bool = Field(False, description="publish each window when it ends, as time passes")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="the same seed gives the same cluster and the same flows")
    topology: Path | None = Field(
        None, description="file to write the topology to as well, for zonemeter run enricher --topology"
    )

    @model_validator(mode="after")
    def _pods_fit(self) -> Self:
        if not self.nodes <= self.pods <= self.nodes * MOST_PODS_A_NODE:
            most = self.nodes * MOST_PODS_A_NODE
            raise ValueError(f"pods = {self.pods}: expected {self.nodes} to {most} with nodes = {self.nodes}")
        return self


@entry_point("lab up", UpSettings)
def up(settings: UpSettings) -> int:
    """Bring a lab up and leave it running."""
    begun = time.monotonic()

    def report(line: str) -> None:
        say(f"{time.monotonic() - begun:5.1f} s  {line}")

    plan = _plan(settings)
    ports = Ports.free() if settings.free_ports else Ports()
    tuning = Tuning(window_seconds=settings.window_seconds)
    files = run_interruptible(cluster.up(plan, ports, tuning=tuning, with_services=settings.services, say=report))
    usual = LabSettings.model_construct()
    named = "".join(
        f" --{name} {value}"
        for name in ("prefix", "fabric", "story")
        if (value := getattr(settings, name)) != getattr(usual, name)
    )
    say(
        f"up. kubeconfig {files.kubeconfig}",
        f"    flow log   {files.logs}",
        f"    Kafka      127.0.0.1:{ports.kafka}",
        f"zonemeter lab traffic{named} sends packets; zonemeter lab down{named} takes it down",
    )
    return 0


@entry_point("lab down", DownSettings)
def down(settings: DownSettings) -> int:
    """Take a lab down; return 1 if a process had to be killed because it did not end by itself."""
    other = cluster.other_checkout(settings.prefix)
    if settings.of_this_checkout and other:
        say(f"lab {settings.prefix} belongs to {other}; it was left as it is")
        return 0
    killed = asyncio.run(cluster.down(settings.prefix))
    for role in killed:
        complain(f"{role} did not end in time and was killed")
    say(f"lab {settings.prefix} is down; nothing of it is left")
    return 1 if killed else 0


@entry_point("lab status", LabSettings)
def status(settings: LabSettings) -> int:
    """Print what of a lab is there; return 1 if it is not whole."""
    state = cluster.status(settings.prefix)
    if not state.exists:
        say(f"lab {settings.prefix} is not up")
        return 1
    say(f"lab {settings.prefix}: {len(state.namespaces)} namespaces, {state.pins} pins")
    for process in state.processes:
        say(f"  {'runs' if process.alive else 'ENDED':<6} {process.role} (pid {process.pid})")
    return 0 if state.whole else 1


@entry_point("lab traffic", LabSettings)
def traffic(settings: LabSettings) -> int:
    """Send the plan's traffic between the lab's pods until Ctrl-C; print the requests that were answered."""
    if not cluster.status(settings.prefix).namespaces:
        raise Refusal(f"lab {settings.prefix} is not up; run zonemeter lab up")
    complain("sending until Ctrl-C")
    requests = asyncio.run(run_until_signal(_plan(settings)))
    for name, count in sorted(requests.items()):
        say(f"{count:>8} requests  {name}")
    return 0


@entry_point("lab synth", SynthSettings)
def synth(settings: SynthSettings) -> int:
    """Publish a made-up cluster's windows, the last of which ends now, or of which the first does."""
    cluster = SynthCluster(settings.nodes, settings.pods, settings.seed)
    begin_ms = (now_ms() // WINDOW_MS - (1 if settings.live else settings.windows)) * WINDOW_MS
    if settings.topology is not None:
        try:
            settings.topology.write_bytes(encode_topology_file(list(cluster.states())))
        except OSError as error:
            raise Refusal(f"topology = {str(settings.topology)!r}: {error.strerror}") from error
    traffic = Traffic(cluster, settings.cluster, settings.flows, begin_ms)
    run_interruptible(publish(settings, traffic, range(settings.windows), live=settings.live))
    flows = settings.nodes * settings.windows * settings.flows
    say(f"{flows:,} flows of {settings.nodes:,} nodes and {settings.pods:,} pods, windows of each: {settings.windows}")
    return 0


def _plan(settings: LabSettings) -> Plan:
    try:
        return stories.make(settings.story, settings.prefix, settings.fabric)
    except ValueError as error:
        raise Refusal(str(error)) from error
