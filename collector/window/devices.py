# SPDX-License-Identifier: Apache-2.0
"""The node's devices, as the meter wants them: read from the kernel, judged by `uplinks`."""

from collections.abc import Collection, Sequence

from collector.attach import netlink, uplinks
from collector.window.meter import Devices


def read(patterns: Sequence[str], tunnel_ports: Collection[int]) -> Devices:
    """Return the devices of this network namespace; `patterns` and `tunnel_ports` as the settings name them."""
    links, routes = netlink.read()
    chosen = uplinks.choose(links, routes, patterns)
    bound = netlink.bound_ports()
    return Devices(
        {link.index: link.name for link in chosen},
        uplinks.outer_packets(links, bound, tunnel_ports),
        frozenset(uplinks.contained(chosen)),
        frozenset(uplinks.outer_ports(links)),
        tuple(uplinks.unexplained(links, bound, tunnel_ports)),
    )
