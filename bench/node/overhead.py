# SPDX-License-Identifier: Apache-2.0
"""`make bench-overhead`: what a node's own traffic loses to the hook, end to end: throughput, packets, round trips.

A client and a server in network namespaces, and a node between them that forwards and tracks connections. *Ours* is
with the program at the hook as a collector attaches it, counting, *yardstick* with nothing attached; *peer* is a
program of a peer's shape (bench/node/altered_loader.py), beside nothing attached as well. Client and server have a CPU
each, and share one machine with all else. So the traffic goes on while programs are attached and detached under it,
for a quarter of a second each in turn: what slows the machine down for longer slows all three. A round is the median
of ten such turns, and only ratios within a round say something. What is counted is what arrives at the server's
device. Here the network is memory and a packet costs 1 to 3 us; a network card's costs more, and the share of the hook
is less. 64-byte messages; TCP by iperf3 in one stream, UDP by iperf3 as fast as it can send, round trips by sockperf
(UDP, one at a time).
"""

import contextlib
import math
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.measure import report
from bench.measure.figure import Figure, Target
from bench.measure.process import until
from bench.measure.report import Table
from bench.node import crossing
from bench.node.attached import variant
from lab.network import namespaces

_ROUNDS = 15
_TURNS, _TURN_SECONDS = 10, 0.25
# A link is gone a moment after its last pin, and a new one begins in cold caches.
_SETTLE_SECONDS = 0.05
_MOST = 0.02
_SERVER = "10.2.0.2"
_PORT = {"iperf3": 5201, "sockperf": 11111}

Programs = Mapping[str, Callable[[], AbstractContextManager[None]]]


@dataclass(frozen=True, slots=True)
class Arrived:
    """What has come in over the server's device, and when that was."""

    bytes: int
    packets: int
    seconds: float


def measure(rounds: int) -> Sequence[Table]:
    """Return the table of what is left of a node's traffic with the hook, beside without."""
    figures = []
    with (
        crossing.built(),
        _servers(),
        variant("ours") as ours,
        variant("peer", altered="peer") as peer,
        ours.detached(),
        peer.detached(),
    ):
        programs: Programs = {"off": contextlib.nullcontext, "ours": ours.attached, "peer": peer.attached}
        for kind in _KINDS:
            with _client(kind.client, 60 + 2 * rounds * _TURNS * len(programs) * _TURN_SECONDS):
                taken = [_round(programs, kind.rate, number) for number in range(rounds)]
            off = [found["off"] for found in taken]
            figures.append(Figure(kind.what, kind.unit, [found["ours"] for found in taken], off, target=kind.target))
            figures.append(Figure(f"{kind.what}, peer", kind.unit, [found["peer"] for found in taken], off))
    between = "; ".join(f"{each.what} {interval(each.compared())}" for each in figures)
    text = (__doc__ or "").partition("\n\n")[2]
    return [Table("With the hook, beside without", f"{text}\n95 % intervals of the median ratios: {between}.", figures)]


def _round(programs: Programs, rate: Callable[[Arrived, Arrived], float], number: int) -> dict[str, float]:
    """Return the median rate with each program attached; every other turn, and round, goes the other way."""
    taken: dict[str, list[float]] = defaultdict(list)
    for turn in range(number, number + _TURNS):
        for program in programs if turn % 2 == 0 else reversed([*programs]):
            with programs[program]():
                time.sleep(_SETTLE_SECONDS)
                before = _arrived()
                time.sleep(_TURN_SECONDS)
                taken[program].append(rate(before, _arrived()))
    return {program: median(found) for program, found in taken.items()}


def _arrived() -> Arrived:
    with namespaces.enter(crossing.SINK):
        text = Path("/proc/thread-self/net/dev").read_text()
        at = time.monotonic()
    fields = text.partition("eth0:")[2].split()
    return Arrived(int(fields[0]), int(fields[1]), at)


@contextlib.contextmanager
def _servers() -> Iterator[None]:
    """Let both ends reach each other, and run the servers."""
    namespaces.ip_batch(["addr add 10.1.0.1/16 dev pod"], crossing.NODE)
    namespaces.ip_batch(["route add 10.2.0.0/16 via 10.1.0.1"], crossing.SENDER)
    namespaces.ip_batch(["route add 10.1.0.0/16 via 10.2.0.1"], crossing.SINK)
    with contextlib.ExitStack() as stack:
        for command in (["iperf3", "--server"], ["sockperf", "server", "--ip", _SERVER]):
            server = subprocess.Popen(_within(crossing.SINK, 1, *command), stdout=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
            until(lambda name=command[0]: _listens(name), command[0])  # type: ignore[misc]
        yield


def _listens(name: str) -> bool:
    found = namespaces.run(["ip", "netns", "exec", crossing.SINK, "ss", "-Hlnut", f"sport = :{_PORT[name]}"])
    return bool(found.strip())


def _within(namespace: str, cpu: int, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, "taskset", "--cpu-list", str(cpu), *command]


@contextlib.contextmanager
def _client(command: Sequence[str], seconds: float) -> Iterator[None]:
    """Let a client send for the length of a block, at most so long; raise `RuntimeError` if it ends before."""
    words = [*command, "--time", str(math.ceil(seconds))]
    client = subprocess.Popen(_within(crossing.SENDER, 0, *words), stdout=subprocess.DEVNULL)
    try:
        begun = _arrived()
        until(lambda: _arrived().packets - begun.packets > 1_000, command[0])
        time.sleep(1)  # for TCP to find its window
        yield
        if client.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with status {client.returncode} while it was measured")
    finally:
        client.send_signal(signal.SIGINT)
        client.wait()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of traffic: who sends it, and how fast it goes by what arrived in between."""

    what: str
    unit: str
    client: Sequence[str]
    rate: Callable[[Arrived, Arrived], float]
    target: Target


_IPERF3 = ("iperf3", "--client", _SERVER)
_SOCKPERF = ("sockperf", "ping-pong", "--ip", _SERVER, "--msg-size", "64")
_KINDS = (
    Kind(
        "TCP",
        "Gbit/s",
        _IPERF3,
        lambda a, b: (b.bytes - a.bytes) * 8 / (b.seconds - a.seconds) / 1e9,
        Target(1 - _MOST, at_least=True),
    ),
    Kind(
        "UDP",
        "kpackets/s",
        (*_IPERF3, "--udp", "--length", "64", "--bitrate", "0"),
        lambda a, b: (b.packets - a.packets) / (b.seconds - a.seconds) / 1e3,
        Target(1 - _MOST, at_least=True),
    ),
    Kind(
        "round trip",
        "us",
        _SOCKPERF,
        lambda a, b: (b.seconds - a.seconds) / (b.packets - a.packets) * 1e6,
        Target(1 + _MOST),
    ),
)


def interval(values: Sequence[float]) -> str:
    """Return what the median is within at 95 %, by order statistics: of a sign test's binomial distribution."""
    count, ordered = len(values), sorted(values)
    outside, below = 0, 0.0
    while (below := below + math.comb(count, outside) / 2**count) <= 0.025:
        outside += 1
    if not outside:
        return "unknown (too few rounds)"
    return f"{ordered[outside - 1]:.3f} to {ordered[-outside]:.3f}"


if __name__ == "__main__":
    sys.exit(report.main("overhead", "A node's traffic", measure, rounds=_ROUNDS))
