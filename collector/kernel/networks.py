# SPDX-License-Identifier: Apache-2.0
"""Networks that the program treats as a whole: the cluster's own, and those whose addresses are never folded. Pure.

An IPv4 address that is folded has become the prefix that stands for it: a peer on the internet, one of a crowd. What
may be anything else stays as it is: the cluster's networks, and all that the IANA's special-purpose registry
(RFC 6890) does not call globally reachable, rounded up to whole /24s, so that no prefix mixes both.
"""

import ipaddress
from collections.abc import Iterable
from typing import Literal

from collector.kernel.layout import NETWORK_CLUSTER, NETWORK_KEPT

# How long the prefix is that stands for a folded address.
FOLD_LENGTHS = {"prefix": 24, "none": 0}
ExternalAddresses = Literal["full", "prefix", "none"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOT_GLOBAL = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)


def parse_networks(text: str) -> list[Network]:
    """Return the networks of a list such as "10.42.0.0/16,fd42::/48"; ValueError if it is none."""
    found: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        network = ipaddress.ip_network(part)
        if network.prefixlen == 0:
            raise ValueError(f"{part!r} is everything; expected, for example, 10.42.0.0/16,fd42::/48")
        found.append(network)
    return found


def entries(cluster: Iterable[Network]) -> dict[tuple[int, bytes], int]:
    """Return the map's entries: (length, 16 bytes of address) of each network, to `NETWORK_*` bits.

    The program takes the longest prefix alone, so each entry says what all that hold it say.
    """
    own = set(cluster)
    kept = {ipaddress.ip_network(text) for text in _NOT_GLOBAL}
    return {
        _key(network): (NETWORK_CLUSTER if _within(network, own) else 0)
        | (NETWORK_KEPT if _within(network, own | kept) else 0)
        for network in own | kept
    }


def _within(network: Network, others: Iterable[Network]) -> bool:
    return any(
        other.version == network.version and other.prefixlen <= network.prefixlen and network[0] in other
        for other in others
    )


def _key(network: Network) -> tuple[int, bytes]:
    packed = network.network_address.packed
    if len(packed) == 4:
        return 96 + network.prefixlen, bytes(10) + b"\xff\xff" + packed
    return network.prefixlen, packed
