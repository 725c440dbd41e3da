# SPDX-License-Identifier: Apache-2.0
"""A node of `docker-compose.yml`'s demo: gives its network namespace an overlay, as many clusters have one, and waits.

    node.py NUMBER

Its pod's address, POD_NET.NUMBER, is on a VXLAN device; what the pod sends goes to the peer's node, NODE_NET.PEER.
"""

import os
import signal
import sys

from pyroute2 import IPRoute

DEVICE = "vxlan0"
MTU = 1450  # of Docker's network, less the outer headers
NUMBERS = range(11, 15)


def join_overlay(node_net: str, pod_net: str, number: int) -> None:
    """Make the overlay's device with the pod's address; where each pod is, is written down and not learned."""
    with IPRoute() as route:
        for device in route.link_lookup(ifname=DEVICE):
            route.link("del", index=device)
        made = {"vxlan_id": 1, "vxlan_local": f"{node_net}.{number}", "vxlan_port": 4789, "vxlan_learning": 0}
        route.link("add", ifname=DEVICE, kind="vxlan", address=hardware_address(number), mtu=MTU, **made)
        (device,) = route.link_lookup(ifname=DEVICE)
        route.link("set", index=device, state="up")
        route.addr("add", index=device, address=f"{pod_net}.{number}", prefixlen=24)
        for peer in set(NUMBERS) - {number}:
            known = {"ifindex": device, "lladdr": hardware_address(peer)}
            route.fdb("add", dst=f"{node_net}.{peer}", **known)
            route.neigh("add", dst=f"{pod_net}.{peer}", state="permanent", **known)


def hardware_address(number: int) -> str:
    """Return a pod's address on the overlay's link."""
    return f"02:00:00:00:00:{number:02x}"


if __name__ == "__main__":
    join_overlay(os.environ["NODE_NET"], os.environ["POD_NET"], int(sys.argv[1]))
    signal.sigwait([signal.SIGTERM])
