# SPDX-License-Identifier: Apache-2.0
"""Traffic that begins and pauses when it is told, and `report` beside the wire's own count of it, to the byte."""

import asyncio
import contextlib
import csv
import io
import subprocess
import time
from collections import Counter
from pathlib import Path

from history.model.time_range import rfc3339
from tests.cluster import network
from tests.cluster.cluster import Cluster
from tests.cluster.installed import DEADLINE_SECONDS, Zonemeter
from tests.cluster.network import NODES, OUTSIDE, OUTSIDE_ADDRESSES
from tests.cluster.table import Table
from tests.cluster.workloads import (
    CLIENT,
    FROM_OUTSIDE,
    JOB,
    LABELS,
    NAMESPACE,
    NODE_PORT,
    ON_HOST_PORT,
    job,
    standing,
)
from tests.support.lab.once import tcp_once
from tests.support.services import eventually

SECONDS = 12.0  # more than a window
WINDOW_MS = 10_000
_ROUNDS_FROM_OUTSIDE = 10
_DNS = "kube-system/Deployment/coredns"
_EXTERNAL = "external"
# Who answers on a node's port, by who asks.
_BEHIND_PORTS = {_EXTERNAL: LABELS[FROM_OUTSIDE], LABELS[CLIENT]: LABELS[ON_HOST_PORT]}

End = tuple[str, str]
"""A workload, a node or the world outside, and its zone."""
Pairs = dict[tuple[End, End], int]


class Traffic:
    """The workloads of workloads.py. Bytes are counted from its start on, across nodes and from outside."""

    def __init__(self, cluster: Cluster) -> None:
        """Make the workloads; none sends anything yet."""
        self.cluster = cluster
        # From the beginning of the window that is open: `report` takes windows by their start.
        self._from = rfc3339(time.time_ns() // 1_000_000 // WINDOW_MS * WINDOW_MS)
        self._before = network.count()
        self._ends: dict[str, End] = dict.fromkeys(OUTSIDE_ADDRESSES, (_EXTERNAL, ""))
        self._nodes = {address: node for node in NODES for address in node.addresses}
        cluster.api.kubectl("apply", "-f", "-", objects=standing())
        cluster.wait_for(NAMESPACE)
        self.meet()

    def meet(self) -> None:
        """Note which address is whose: pods that are new since the last time have others."""
        zones = {node.name: node.zone for node in NODES}
        for namespace in (NAMESPACE, "kube-system"):
            for pod in self.cluster.api.get("-n", namespace, "pods")["items"]:
                label = LABELS.get(pod["metadata"]["labels"].get("app", ""), _DNS)
                for address in pod["status"].get("podIPs", ()):
                    self._ends[address["ip"]] = label, zones[pod["spec"]["nodeName"]]

    def go(self) -> None:
        """Let the clients begin."""
        self._tell("touch /tmp/go")

    def pause(self) -> None:
        """Let the clients finish what they are at, and wait until they have."""
        self._tell("rm -f /tmp/go; while [ -e /tmp/busy ]; do sleep 0.1; done")
        self.meet()

    def run_job(self) -> None:
        """Let the Job send, wait for its end, and note its pods' addresses."""
        api = self.cluster.api
        api.kubectl("-n", NAMESPACE, "delete", "job", JOB, "--ignore-not-found")
        api.kubectl("apply", "-f", "-", objects=[job()])
        api.kubectl("-n", NAMESPACE, "wait", f"job/{JOB}", "--for=condition=Complete", "--timeout=180s")
        self.meet()

    def ask_from_outside(self) -> None:
        """Ask the NodePort of every node, over both families."""

        async def ask() -> None:
            for _ in range(_ROUNDS_FROM_OUTSIDE):
                for address in self._nodes:
                    await tcp_once(OUTSIDE, (address, NODE_PORT), 2_000, 30_000)

        asyncio.run(ask())

    def on_wire(self) -> Pairs:
        """Return what the wire has counted, by who the addresses are."""
        pairs: Counter[tuple[End, End]] = Counter()
        for (source, destination), size in network.count().items():
            ends = self._ends_of(source, destination)
            if ends is not None:
                pairs[ends] += size - self._before.get((source, destination), 0)
        return {ends: size for ends, size in pairs.items() if size}

    def reported(self) -> Pairs:
        """Return what `report` says of the same: every scope but that which no wire carries, nor multicast.

        The Job's pods live for a second: what is sent to one may be read before Kubernetes says who it is. Then it is
        unknown (late_index), in its node's zone by the podCIDR; and what DNS answers it is in nobody's namespace.
        """
        said = Zonemeter(self.cluster).run("report", "--from", self._from, "-n", NAMESPACE, "-o", "csv")
        pairs: Counter[tuple[End, End]] = Counter()
        for row in csv.DictReader(io.StringIO(said)):
            source, destination = ((row[side], row[f"{side}_zone"]) for side in ("source", "destination"))
            if destination[0] == "unknown" and destination[1]:
                destination = LABELS[JOB], destination[1]
            if row["scope"] != "same_node" and _is_compared(source, destination):
                pairs[source, destination] += int(row["bytes"])
        return dict(pairs)

    def compare(self, table: Table, when: str) -> None:
        """Wait until all has arrived, and compare the two."""
        wire = self.on_wire()

        def agree() -> bool:
            with contextlib.suppress(AssertionError):  # a command that fails once is no answer
                return self.reported() == wire
            return False

        with contextlib.suppress(AssertionError):  # the table says what differs
            eventually(agree, DEADLINE_SECONDS / 2)
        report = self.reported()
        differ = [
            f"{' '.join(source)} > {' '.join(destination)}: wire {wire.get(pair, 0)}, report {report.get(pair, 0)}"
            for pair in sorted({*wire, *report})
            if wire.get(pair) != report.get(pair)
            for source, destination in [pair]
        ]
        seen = f"{len(report)} pairs, {sum(report.values()):,} bytes"
        expected = f"{len(wire)} pairs, {sum(wire.values()):,} bytes"
        table.add(
            f"{when}: report beside the wire", expected, "; ".join([seen, *differ]), not differ and len(wire) > 20
        )

    def _ends_of(self, source: str, destination: str) -> tuple[End, End] | None:
        """Return who they are; None for what none of the workloads has part in.

        Where a hostPort or a NodePort is asked and answers, the wire has the node's address. Of a hostPort that is
        asked no more is known where the packet is sent; nor at tc of a NodePort, which is not translated there yet: it
        is its node's, in no namespace.
        """
        sender, receiver = self._ends.get(source), self._ends.get(destination)
        if (node := self._nodes.get(source)) and receiver and (server := _BEHIND_PORTS.get(receiver[0])):
            sender = server, node.zone
        if (node := self._nodes.get(destination)) and sender and (server := _BEHIND_PORTS.get(sender[0])):
            if "tc" in network.VARIATION and sender[0] == _EXTERNAL:
                return None
            receiver = (server if sender[0] == _EXTERNAL else f"node/{node.name}"), node.zone
        if sender is None or receiver is None or not {sender[0], receiver[0]} & set(LABELS.values()):
            return None
        return (sender, receiver) if _is_compared(sender, receiver) else None

    def _tell(self, command: str) -> None:
        for pod in self.cluster.pods(NAMESPACE):
            if pod["metadata"]["labels"]["app"] == CLIENT:
                name = pod["metadata"]["name"]
                self.cluster.api.kubectl("-n", NAMESPACE, "exec", name, "--", "sh", "-c", command)


def _is_compared(source: End, destination: End) -> bool:
    return destination[0] != "unknown" and (source[0], destination[0]) != (_DNS, LABELS[JOB])


def _has_ipvs() -> bool:
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["modprobe", "--quiet", "ip_vs"], check=False)
    return Path("/proc/net/ip_vs").exists()


def metered(cluster: Cluster, table: Table) -> None:
    """Send with kube-proxy in each mode that the kernel has, and compare after each."""
    traffic = Traffic(cluster)
    for mode in ("iptables", "nftables", "ipvs"):
        if mode == "ipvs" and not _has_ipvs():
            table.add("kube-proxy in ipvs mode", "if this kernel has it", "not in this kernel", ok=True)
            continue
        cluster.change_proxy_mode(mode)
        traffic.go()
        traffic.run_job()
        traffic.ask_from_outside()
        time.sleep(SECONDS)
        traffic.pause()
        traffic.compare(table, f"kube-proxy in {mode} mode")
