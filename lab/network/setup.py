# SPDX-License-Identifier: Apache-2.0
"""Makes the lab's network out of a plan, and removes whatever is left of one by its prefix.

Blocking, for well under a second. Nothing here has a way out: the root namespace has one link into the fabric
over which it does not forward, and no namespace has a route to the machine's own network.
"""

import json
import os
from ipaddress import ip_interface, ip_network
from pathlib import Path

from lab.errors import LabError
from lab.network import script, truth
from lab.network.namespaces import enter, ip_batch, run, with_prefix, write_sysctls
from lab.plan import Node, Outside, Plan, Pod

# Super-packets reach the hook and are cut behind it, by this link: receivers and counters see segments.
CUT = ["tso", "off", "tx-udp-segmentation", "off", "tx-udp_tnl-segmentation", "off"]
CUT += ["tx-udp_tnl-csum-segmentation", "off", "tx-gso-list", "off"]
KEEP_CUT = ["gro", "off"]


def create(plan: Plan) -> None:
    """Make every namespace, link, address, route and rule; raises `LabError` and leaves what it made so far."""
    if os.geteuid() != 0:
        raise LabError("the lab must run as root: it makes network namespaces; try: sudo")
    _refuse_overlap(plan)
    ip_batch(f"netns add {namespace}" for namespace in script.namespaces(plan))
    _before_links(plan)
    ip_batch(script.links(plan))
    _make_fabric(plan)
    for node in plan.nodes:
        _make_node(plan, node)
    for outside in plan.outsides:
        _make_outside(plan, outside)


def remove_pod(plan: Plan, pod: Pod) -> None:
    """Take one pod from a running lab: at once, as a crash would."""
    with enter(script.node_namespace(plan.prefix, pod.node)):
        run(["ip", "link", "del", script.pod_link(pod)])
    ip_batch([f"netns del {script.pod_namespace(plan.prefix, pod)}"])


def apply_services(plan: Plan) -> None:
    """Rewrite every node's ClusterIPs, in one step per node."""
    for node in plan.nodes:
        with enter(script.node_namespace(plan.prefix, node.name)):
            run(["nft", "-f", "-"], script.services(plan, node))


def remove(prefix: str) -> None:
    """Remove whatever network a lab of this prefix has left; nothing there is fine."""
    if Path("/sys/class/net", script.control_link(prefix)).exists():
        ip_batch([f"link del {script.control_link(prefix)}"])
    left = with_prefix(prefix)
    if left:
        ip_batch(f"netns del {namespace}" for namespace in left)


def _refuse_overlap(plan: Plan) -> None:
    fabric = ip_network(plan.fabric_v4)
    for link in json.loads(run(["ip", "-j", "-4", "addr", "show"])):
        for address in link["addr_info"]:
            if ip_interface(f"{address['local']}/{address['prefixlen']}").network.overlaps(fabric):
                raise LabError(
                    f"fabric {fabric}: {link['ifname']} of this machine has {address['local']}; choose another"
                )


def _before_links(plan: Plan) -> None:
    with enter(script.fabric_namespace(plan.prefix)):
        write_sysctls(script.FABRIC_SYSCTLS)
    for node in plan.nodes:
        with enter(script.node_namespace(plan.prefix, node.name)):
            write_sysctls(script.NODE_SYSCTLS)
        for pod in plan.pods_on(node.name):
            with enter(script.pod_namespace(plan.prefix, pod)):
                write_sysctls(script.QUIET)
    for outside in plan.outsides:
        with enter(script.outside_namespace(plan.prefix, outside)):
            write_sysctls(script.QUIET)


def _make_fabric(plan: Plan) -> None:
    link = script.control_link(plan.prefix)
    write_sysctls({f"ipv6/conf/{link}/disable_ipv6": 1, f"ipv4/conf/{link}/forwarding": 0})
    ip_batch(script.control(plan))
    run(["ethtool", "-K", link, *CUT, *KEEP_CUT])
    with enter(script.fabric_namespace(plan.prefix)):
        ip_batch(script.fabric(plan))
        for port in script.fabric_ports(plan):
            run(["ethtool", "-K", port, *KEEP_CUT])
        run(["nft", "-f", "-"], truth.fabric_ruleset())


def _make_node(plan: Plan, node: Node) -> None:
    pods = plan.pods_on(node.name)
    for pod in pods:  # before the node's ends are up: nothing they send is lost
        _make_pod(plan, pod)
    with enter(script.node_namespace(plan.prefix, node.name)):
        ip_batch([*script.node(plan, node), *(line for pod in pods for line in script.node_side(node, pod))])
        run(["ethtool", "-K", "eth0", *CUT, *KEEP_CUT])
        run(["nft", "-f", "-"], script.services(plan, node) + truth.node_ruleset())
        for pod in pods:
            _finish_pod_link(pod)


def _finish_pod_link(pod: Pod) -> None:
    write_sysctls(script.pod_link_sysctls(pod))
    run(["ethtool", "-K", script.pod_link(pod), *CUT, *KEEP_CUT])
    run(["nft", "-f", "-"], truth.link_ruleset(script.pod_link(pod)))


def _make_pod(plan: Plan, pod: Pod) -> None:
    with enter(script.pod_namespace(plan.prefix, pod)):
        ip_batch(script.pod_side(pod))
        run(["nft", "-f", "-"], truth.pod_ruleset())


def _make_outside(plan: Plan, outside: Outside) -> None:
    with enter(script.outside_namespace(plan.prefix, outside)):
        ip_batch(script.outside(plan, outside))
        run(["ethtool", "-K", "eth0", *CUT, *KEEP_CUT])
