# SPDX-License-Identifier: Apache-2.0
"""`make bench-hook`: what the program at the hook costs per packet, above one that only accepts.

Both are attached to the same hook and see the same packets; the kernel's own statistics (kernel.bpf_stats_enabled)
time them. Its two readings of the clock are in both. A packet is what the hook is called with: a TCP super-packet is
one. The node forwards the packets and tracks connections.
"""

import itertools
import socket
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from bench.measure import report, run_stats
from bench.measure.figure import Compare, Figure, Target
from bench.measure.report import Table
from bench.node import crossing, hook_map
from bench.node.attached import Variant, accepting, timed, variant
from bench.node.crossing import TCP, UDP

_MANY = 10_000
_BY_FLOWS = (1, 500, 1000, 5000, _MANY)
_SUPER = 14_480
_TARGET_ONE, _TARGET_MANY = 130.0, 350.0

_PEER = """
Ns per packet above accept-only. *Yardstick* is a program of a peer's shape, kubezonnet's at ecfbed7
(bench/node/altered_loader.py): a key of IPv4 addresses and ports, a shared map of 1,024 entries, the length as the IP
header has it. Beyond 1,024 flows it counts no more of them, which costs it less: *room for all* is the same with as
many entries as ours has. What it does not do, and ours does for every packet: bytes as they are on the wire (segments,
fragments), IPv6, direction, who serves and whether through a Service (connection tracking), tunnels, copies, and the
ledger's counters; *bare* is ours without all of these, but for IPv6's longer key. *Helper*: ours as it is at tc and
before Linux 6.17. Clients: flows of as many sources to one server.
kubezonnet itself, unmodified, on an AMD EPYC with Linux 6.18 on 2026-11-24: UDP 148 ns with one flow, 150 with 500,
196 with 1,000, 355 with 5,000, 339 with 10,000; TCP 299 and 395 with one and 10,000. On an Intel Xeon on 2026-11-30: 58
ns with one flow of UDP, 57 of TCP: what a call costs is what the processor's mitigations make of it.
"""
_SETTINGS = """
Above the program as it is by default; 64-byte UDP of one flow, all variants in turn. What is off by default is not
compiled in, and costs nothing then.
"""
_LEFT_OUT = """
What of the program by default each of its parts costs, by programs without it: negative is what it costs. 64-byte UDP
of one flow, all variants in turn. A peer's program has none of them; parts share loads and caches, so their sum is not
what all of them cost.
"""
# What is added to a case's name, whose figure it is, and beside whose.
_BESIDE = (
    ("", "ours", "peer"),
    (", helper", "helper", "peer"),
    (", room for all", "ours", "roomy"),
    (", bare", "bare", "roomy"),
)
_FOLDING: dict[str, Any] = {"cluster_cidrs": ["10.1.0.0/16"], "external_addresses": "prefix"}
_HERE = "10.200.0.0"
# By name: what is changed, and where the packets go.
_BY_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "by a helper's calls (at tc, Linux before 6.2)": ({"direct_loads": False}, _HERE),
    "`--ports full`": ({"ports": "full"}, _HERE),
    "`--cluster-cidrs`, sent from here": ({"cluster_cidrs": ["10.1.0.0/16"]}, _HERE),
    "`--external-addresses prefix`, private to private": (_FOLDING, _HERE),
    "`--external-addresses prefix`, private to public": (_FOLDING, "8.8.8.8"),
}
_WITHOUT: dict[str, tuple[dict[str, Any], str]] = {
    f"without {what}": ({"altered": name}, _HERE)
    for what, name in (
        ("the ledger's counter", "no_ledger"),
        ("segments and fragments: bytes on the wire", "no_wire"),
        ("what is put aside: loopback, copies, second passes", "no_aside"),
        ("connection tracking: services, who serves", "no_connection"),
        ("direction", "no_direction"),
        ("tunnels", "no_tunnels"),
        ("one of the ports", "no_service"),
        ("the dead-man's look at the time", "no_deadman"),
        ("all of these", "bare"),
    )
}


def measure(rounds: int) -> list[Table]:
    """Return the hook's tables."""
    with crossing.built() as out, run_stats.enabled(), accepting() as yardstick:
        tables = [cost(rounds, out, yardstick), beside_a_peer(rounds, out, yardstick)]
        tables.append(changed(rounds, out, yardstick, "What each setting costs", _SETTINGS, _BY_SETTINGS))
        tables.append(changed(rounds, out, yardstick, "What each part costs", _LEFT_OUT, _WITHOUT))
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
    figures: dict[str, list[Figure]] = defaultdict(list)
    with ExitStack() as stack:
        ours, bare = stack.enter_context(variant("ours")), stack.enter_context(variant("bare", altered="bare"))
        helper = stack.enter_context(variant("helper", direct_loads=False))
        for case, packets in cases.items():
            # New ones each time: their maps keep what they have.
            with variant("peer", altered="peer") as peer, variant("roomy", altered="roomy_peer") as roomy:
                programs = {"ours": ours, "helper": helper, "bare": bare, "peer": peer, "roomy": roomy}
                taken = _rounds(rounds, out, yardstick, {name: (packets, each) for name, each in programs.items()})
            above = {name: [cost - accept for cost, accept in zip(*both, strict=True)] for name, both in taken.items()}
            for suffix, name, beside in _BESIDE:
                figures[suffix].append(Figure(case + suffix, "ns", above[name], above[beside]))
    return Table("Beside a program of a peer's shape", _PEER, [*itertools.chain(*figures.values())])


def changed(
    rounds: int,
    out: socket.socket,
    yardstick: int,
    title: str,
    text: str,
    variants: Mapping[str, tuple[dict[str, Any], str]],
) -> Table:
    """Measure what variants cost, against the program by default."""
    figures = []
    with variant("plain") as plain:
        for name, (changes, destination) in variants.items():
            packets = crossing.frames(UDP, 1, destination=destination)
            with variant("changed", **changes) as other:
                cases = {"plain": (crossing.frames(UDP, 1), plain), "changed": (packets, other)}
                taken = _rounds(rounds, out, yardstick, cases)
            figures.append(Figure(name, "ns", taken["changed"][0], taken["plain"][0], Compare.DIFFERENCE))
    return Table(title, text, figures)


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
