# SPDX-License-Identifier: Apache-2.0
"""`make bench-hook`: what the program at the hook costs per packet, above one that only accepts.

Both are attached to the same hook and see the same packets; the kernel's own statistics (kernel.bpf_stats_enabled)
time them. Its two readings of the clock are in both. A packet is what the hook is called with: a TCP super-packet is
one. The node forwards the packets and tracks connections.
"""

import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from bench.kernel import crossing, hook_map
from bench.kernel.attached import Variant, accepting, timed, variant
from bench.kernel.crossing import TCP, UDP
from bench.measure import report, run_stats
from bench.measure.figure import Compare, Figure, Target
from bench.measure.report import Table

_MANY = 10_000
_BY_FLOWS = (1, 500, 1000, 5000, _MANY)
_SUPER = 14_480
_TARGET_ONE, _TARGET_MANY = 130.0, 350.0

_PEER = """
Ns per packet above accept-only. *Yardstick* is a program of a peer's shape, kubezonnet's at ecfbed7 (bench/kernel/
peer_loader.py): a key of IPv4 addresses and ports, a shared map of 1,024 entries, the length as the IP header has it.
Beyond 1,024 flows it counts no more of them, which costs it less. What it does not do, and ours does for every packet:
bytes as they are on the wire (segments, fragments), IPv6, direction, who serves and whether through a Service
(connection tracking), tunnels, copies, and the ledger's counters. Clients: flows of as many sources to one server.
kubezonnet itself, unmodified, on an AMD EPYC with Linux 6.18 on 2026-11-24: UDP 148 ns with one flow, 150 with 500,
196 with 1,000, 355 with 5,000, 339 with 10,000; TCP 299 and 395 with one and 10,000.
"""
_FEATURES = """
What is left out or put in, above the program as it is by default; 64-byte UDP of one flow, all variants in turn.
Negative: cheaper. What is off by default is not compiled in, and costs nothing then. What the dead-man's look at the
time costs, about 2 ns, is in the default.
"""
_FOLDING: dict[str, Any] = {"cluster_cidrs": ["10.1.0.0/16"], "external_addresses": "prefix"}
# By name: what is changed, and where the packets go.
_VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "by a helper's calls (at tc, Linux before 6.2)": ({"direct_loads": False}, "10.200.0.0"),
    "`--ports full`": ({"ports": "full"}, "10.200.0.0"),
    "`--cluster-cidrs`, sent from here": ({"cluster_cidrs": ["10.1.0.0/16"]}, "10.200.0.0"),
    "`--external-addresses prefix`, private to private": (_FOLDING, "10.200.0.0"),
    "`--external-addresses prefix`, private to public": (_FOLDING, "8.8.8.8"),
}


def measure(rounds: int) -> list[Table]:
    """Return the hook's tables."""
    with crossing.built() as out, run_stats.enabled(), accepting() as yardstick:
        tables = [cost(rounds, out, yardstick), beside_a_peer(rounds, out, yardstick)]
        tables.append(features(rounds, out, yardstick))
        tables += [hook_map.sharing(rounds, out, yardstick), hook_map.full(rounds, out)]
    return tables


def cost(rounds: int, out: socket.socket, yardstick: int) -> Table:
    """Measure TCP and small UDP, one flow and many; at tc too, which has no target of its own."""
    one, many = "one flow", "10,000 flows in turn"
    kinds = {
        f"UDP, 64 bytes, {one}": (crossing.frames(UDP, 1), _TARGET_ONE),
        f"TCP super-packets of 14 kB, {one}": (crossing.frames(TCP, 1, payload=_SUPER), _TARGET_ONE),
        f"UDP, 64 bytes, {many}": (crossing.frames(UDP, _MANY), _TARGET_MANY),
        f"TCP super-packets of 14 kB, {many}": (crossing.frames(TCP, _MANY, payload=_SUPER), _TARGET_MANY),
    }
    figures = []
    for suffix, hook in (("", "netfilter"), (", at tc", "tc")):
        with variant(hook, hook=hook) as program:
            taken = _rounds(rounds, out, yardstick, {kind: (packets, program) for kind, (packets, _) in kinds.items()})
        for kind, both in taken.items():
            target = None if suffix else Target(kinds[kind][1])
            figures.append(Figure(kind + suffix, "ns", *both, Compare.DIFFERENCE, target))
    return Table("What a packet costs at the hook", __doc__.partition("\n\n")[2], figures)


def beside_a_peer(rounds: int, out: socket.socket, yardstick: int) -> Table:
    """Measure by how many flows there are, beside a program of a peer's shape."""
    cases = {f"UDP, 64 bytes, flows: {flows:,}": crossing.frames(UDP, flows) for flows in _BY_FLOWS}
    cases["UDP, 64 bytes, clients: 10,000"] = crossing.frames(UDP, _MANY, clients=True)
    cases["TCP super-packets of 14 kB, flows: 1"] = crossing.frames(TCP, 1, payload=_SUPER)
    cases["TCP super-packets of 14 kB, flows: 10,000"] = crossing.frames(TCP, _MANY, payload=_SUPER)
    figures = []
    with variant("ours") as ours, variant("peer", loader="bench.kernel.peer_loader") as peer:
        for case, packets in cases.items():
            both: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for program, into in zip((ours, peer), both, strict=True):
                    cost_, accept = timed(out, packets, program, yardstick)
                    into.append(cost_ - accept)
            figures.append(Figure(case, "ns", *both))
    return Table("Beside a program of a peer's shape", _PEER, figures)


def features(rounds: int, out: socket.socket, yardstick: int) -> Table:
    """Measure what settings and older kernels cost, against the program by default."""
    with ExitStack() as stack:
        plain = stack.enter_context(variant("plain"))
        cases = {"": (crossing.frames(UDP, 1), plain)}
        for number, (name, (changes, destination)) in enumerate(_VARIANTS.items()):
            packets = crossing.frames(UDP, 1, destination=destination)
            cases[name] = (packets, stack.enter_context(variant(f"v{number}", **changes)))
        taken = _rounds(rounds, out, yardstick, cases)
    default = taken.pop("")[0]
    figures = [Figure(name, "ns", ours, default, Compare.DIFFERENCE) for name, (ours, _) in taken.items()]
    return Table("What each feature costs", _FEATURES, figures)


def _rounds(
    rounds: int, out: socket.socket, yardstick: int, cases: Mapping[str, tuple[Sequence[bytes], Variant]]
) -> dict[str, tuple[list[float], list[float]]]:
    taken: dict[str, tuple[list[float], list[float]]] = {case: ([], []) for case in cases}
    for _ in range(rounds):
        for case, (packets, program) in cases.items():
            for cost_, into in zip(timed(out, packets, program, yardstick), taken[case], strict=True):
                into.append(cost_)
    return taken


if __name__ == "__main__":
    sys.exit(report.main("hook", "The hook", measure))
