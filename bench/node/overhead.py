# SPDX-License-Identifier: Apache-2.0
"""`make bench-overhead`: what a node's own traffic loses to the hook, end to end: throughput, packets, round trips.

A client and a server in network namespaces, and a node between them that forwards and tracks connections. *Ours* is
with the program at the hook as a collector attaches it, counting, *yardstick* with nothing attached; *peer* is a
program of a peer's shape (bench/node/altered_loader.py), beside nothing attached as well. Client and server have a CPU
each, and share one machine with all else: so only ratios within a round say something. Here the network is memory and
a packet costs 1 to 3 us; a network card's costs more, and the share of the hook is less. 64-byte messages; TCP by
iperf3 in one stream, UDP by iperf3 as fast as it can send, round trips by sockperf (UDP, median).
"""

import contextlib
import json
import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from bench.measure import report
from bench.measure.figure import Figure, Target
from bench.measure.process import until
from bench.measure.report import Table
from bench.node import crossing
from bench.node.attached import variant
from lab.network import namespaces

_ROUNDS = 15
_SECONDS = 2
_MOST = 0.02
_SERVER = "10.2.0.2"
_PORT = {"iperf3": 5201, "sockperf": 11111}
_MEDIAN = re.compile(r"percentile 50\.000 = +([\d.]+)")


def measure(rounds: int) -> Sequence[Table]:
    """Return the table of what is left of a node's traffic with the hook, beside without."""
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    programs: dict[str, Callable[[], AbstractContextManager[None]]]
    programs = {"off": contextlib.nullcontext, "ours": _ours, "peer": _peer}
    with crossing.built(), _servers():
        for number in range(rounds):
            for program in programs if number % 2 == 0 else reversed(programs):
                with programs[program]():
                    for what, found in _KINDS.items():
                        taken[what, program].append(found())
    figures = []
    for what, unit, target in _ROWS:
        off = taken[what, "off"]
        figures.append(Figure(what, unit, taken[what, "ours"], off, target=target))
        figures.append(Figure(f"{what}, peer", unit, taken[what, "peer"], off))
    between = "; ".join(f"{each.what} {interval(each.compared())}" for each in figures)
    text = (__doc__ or "").partition("\n\n")[2]
    return [Table("With the hook, beside without", f"{text}\n95 % intervals of the median ratios: {between}.", figures)]


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    with variant("ours") as program, program.counting():
        yield


@contextlib.contextmanager
def _peer() -> Iterator[None]:
    with variant("peer", altered="peer") as program, program.counting():
        yield


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


def _client(*command: str) -> str:
    return namespaces.run(_within(crossing.SENDER, 0, *command))


def _iperf3(*flags: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(
        _client("iperf3", "--client", _SERVER, "--json", "--time", str(_SECONDS), *flags)
    )["end"]
    return found


def _tcp() -> float:
    return _iperf3()["sum_received"]["bits_per_second"] / 1e9


def _udp() -> float:
    found = _iperf3("--udp", "--length", "64", "--bitrate", "0")["sum"]
    return found["packets"] / found["seconds"] / 1e3


def _round_trip() -> float:
    found = _MEDIAN.search(
        _client("sockperf", "ping-pong", "--ip", _SERVER, "--time", str(_SECONDS), "--msg-size", "64", "--full-rtt")
    )
    if found is None:
        raise ValueError("sockperf says no median")
    return float(found[1])


_KINDS: dict[str, Callable[[], float]] = {"TCP": _tcp, "UDP, sent": _udp, "round trip": _round_trip}
_ROWS = (
    ("TCP", "Gbit/s", Target(1 - _MOST, at_least=True)),
    ("UDP, sent", "kpackets/s", Target(1 - _MOST, at_least=True)),
    ("round trip", "us", Target(1 + _MOST)),
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
