# SPDX-License-Identifier: Apache-2.0
"""The node's devices, as the meter wants them: read from the kernel, judged by `uplinks`."""

from collections.abc import Collection, Sequence
from itertools import islice

from collector.attach import netlink, uplinks
from collector.kernel.layout import MOST_TUNNELS, MOST_UPLINKS
from collector.window.meter import Devices


def read(patterns: Sequence[str], tunnel_ports: Collection[int]) -> Devices:
    """Return the devices of this network namespace; `patterns` and `tunnel_ports` as the settings name them."""
    links, routes = netlink.read()
    bound = netlink.bound_ports()
    found, tunnels = uplinks.choose(links, routes, patterns), uplinks.outer_packets(links, bound, tunnel_ports)
    ports = sorted(uplinks.outer_ports(links))
    # Devices of the machine come before those that programs make.
    chosen = found[:MOST_UPLINKS]
    known_ports = ports[: MOST_UPLINKS - len(chosen)]
    known_tunnels = dict(islice(tunnels.items(), MOST_TUNNELS))
    return Devices(
        {link.index: link.name for link in chosen},
        known_tunnels,
        frozenset(uplinks.contained(chosen)),
        frozenset(known_ports),
        tuple(uplinks.unexplained(links, bound, tunnel_ports)),
        left_out=len(found) - len(chosen) + len(ports) - len(known_ports) + len(tunnels) - len(known_tunnels),
    )
