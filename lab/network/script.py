# SPDX-License-Identifier: Apache-2.0
"""The lab's network as text: names, `ip -batch` lines, sysctls and nft rulesets. Pure; `network` applies them.

Each node has an uplink `eth0` on the fabric's bridge and one veth per pod. Towards pods it speaks with its own
address: their gateway is 169.254.1.1 by proxy ARP and fe80::1, as Calico does, so no odd source appears.
"""

from collections.abc import Iterator

from lab.plan import POD_CIDR_V4, POD_CIDR_V6, Node, Outside, Plan, Pod, Service

GATEWAY_V4 = "169.254.1.1"
GATEWAY_V6 = "fe80::1"
GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"
BRIDGE = "br0"
POD_LINK = "veth"

# No duplicate address detection and no router solicitations: addresses are usable at once, links are silent.
QUIET = {
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/dad_transmits": 0,
    "ipv6/conf/default/router_solicitations": 0,
    "ipv6/conf/default/accept_ra": 0,
}
NODE_SYSCTLS = QUIET | {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
}
# A switch, not a router: bridged packets pass no IP hook, and it has no addresses.
FABRIC_SYSCTLS = {
    "bridge/bridge-nf-call-iptables": 0,
    "bridge/bridge-nf-call-ip6tables": 0,
    "ipv6/conf/all/disable_ipv6": 1,
    "ipv6/conf/default/disable_ipv6": 1,
}


def fabric_namespace(prefix: str) -> str:
    """Name the namespace of the fabric."""
    return f"{prefix}-fabric"


def node_namespace(prefix: str, node: str) -> str:
    """Name the namespace of a node."""
    return f"{prefix}-{node}"


def pod_namespace(prefix: str, pod: Pod) -> str:
    """Name the namespace a pod's sockets live in: of its own, or its node's."""
    if pod.workload.host_network:
        return node_namespace(prefix, pod.node)
    return f"{prefix}-pod-{pod.namespace}-{pod.name}"


def outside_namespace(prefix: str, outside: Outside) -> str:
    """Name the namespace of an outside host."""
    return f"{prefix}-out-{outside.name}"


def control_link(prefix: str) -> str:
    """Name the one link of the lab that is in the root namespace."""
    return f"{prefix}-lab"


def pod_number(pod: Pod) -> str:
    """Return a pod's number on its node: the last part of its addresses."""
    return pod.address_v4.rsplit(".", 1)[1]


def pod_link(pod: Pod) -> str:
    """Name a pod's veth on its node."""
    return f"{POD_LINK}{pod_number(pod)}"


def pod_link_sysctls(pod: Pod) -> dict[str, int]:
    """Return the sysctls, in the node's namespace, by which a pod's link answers for its gateway at once."""
    link = pod_link(pod)
    return {f"ipv4/conf/{link}/proxy_arp": 1, f"ipv4/neigh/{link}/proxy_delay": 0}


def namespaces(plan: Plan) -> Iterator[str]:
    """Yield every namespace of a lab."""
    yield fabric_namespace(plan.prefix)
    for node in plan.nodes:
        yield node_namespace(plan.prefix, node.name)
        for pod in plan.pods_on(node.name):
            yield pod_namespace(plan.prefix, pod)
    for outside in plan.outsides:
        yield outside_namespace(plan.prefix, outside)


def links(plan: Plan) -> Iterator[str]:
    """Yield the lines, for the root namespace, that make every link between two namespaces."""
    fabric = fabric_namespace(plan.prefix)
    for node in plan.nodes:
        namespace = node_namespace(plan.prefix, node.name)
        yield f"link add eth0 netns {namespace} type veth peer name {node.name} netns {fabric}"
        for pod in plan.pods_on(node.name):
            yield pod_cable(plan.prefix, pod)
    for outside in plan.outsides:
        namespace = outside_namespace(plan.prefix, outside)
        yield f"link add eth0 netns {namespace} type veth peer name {outside.name} netns {fabric}"
    yield f"link add {control_link(plan.prefix)} type veth peer name control netns {fabric}"


def pod_cable(prefix: str, pod: Pod) -> str:
    """Return the line, for the root namespace, that links a pod to its node."""
    node, namespace = node_namespace(prefix, pod.node), pod_namespace(prefix, pod)
    return f"link add eth0 netns {namespace} type veth peer name {pod_link(pod)} netns {node}"


def fabric(plan: Plan) -> Iterator[str]:
    """Yield the lines for the fabric's namespace."""
    yield f"link add {BRIDGE} type bridge mcast_snooping 0 forward_delay 0"
    yield f"link set {BRIDGE} up"
    for port in fabric_ports(plan):
        yield f"link set {port} master {BRIDGE} up"


def fabric_ports(plan: Plan) -> list[str]:
    """Name the bridge's ports."""
    return [*(node.name for node in plan.nodes), *(outside.name for outside in plan.outsides), "control"]


def node(plan: Plan, this: Node) -> Iterator[str]:
    """Yield the lines for a node's namespace, without its pods."""
    yield "link set lo up"
    yield "link set eth0 up"
    yield f"addr add {this.address_v4}/24 dev eth0"
    yield f"addr add {this.address_v6}/64 dev eth0 nodad"
    yield f"route add default via {plan.router_v4}"
    yield f"route add default via {plan.router_v6} dev eth0"
    yield from _routes_to_pods(plan, skip=this)
    for outside in plan.outsides:
        if outside.zone:
            yield f"route add {outside.cidr_v4} dev eth0"
            yield f"route add {outside.cidr_v6} dev eth0"


def node_side(this: Node, pod: Pod) -> Iterator[str]:
    """Yield the lines for a node's namespace that give it a pod."""
    link = pod_link(pod)
    yield f"link set {link} address {GATEWAY_MAC} addrgenmode none up"
    yield f"addr add {GATEWAY_V6}/64 dev {link} nodad"
    yield f"route add {pod.address_v4}/32 dev {link} src {this.address_v4}"
    yield f"route add {pod.address_v6}/128 dev {link} src {this.address_v6}"


def pod_side(pod: Pod) -> Iterator[str]:
    """Yield the lines for a pod's namespace."""
    yield "link set lo up"
    yield "link set eth0 up"
    yield f"addr add {pod.address_v4}/32 dev eth0"
    yield f"addr add {pod.address_v6}/128 dev eth0 nodad"
    yield f"route add {GATEWAY_V4} dev eth0"
    yield f"route add default via {GATEWAY_V4}"
    yield f"route add default via {GATEWAY_V6} dev eth0"


def outside(plan: Plan, this: Outside) -> Iterator[str]:
    """Yield the lines for an outside host: in the VPC with routes to all of it, or behind the nodes' router."""
    yield "link set lo up"
    yield "link set eth0 up"
    if this.zone:
        yield f"addr add {this.address_v4}/24 dev eth0"
        yield f"addr add {this.address_v6}/64 dev eth0 nodad"
        yield f"route add {plan.fabric_v4} dev eth0"
        yield "route add fd50::/64 dev eth0"
        yield from _routes_to_pods(plan, skip=None)
    else:
        yield f"addr add {plan.router_v4}/24 dev eth0"
        yield f"addr add {plan.router_v6}/64 dev eth0 nodad"
        yield f"addr add {this.address_v4}/32 dev lo"
        yield f"addr add {this.address_v6}/128 dev lo nodad"


def control(plan: Plan) -> Iterator[str]:
    """Yield the lines for the root namespace: one address for nodes to reach, IPv4 only."""
    yield f"addr add {plan.control_v4}/24 dev {control_link(plan.prefix)}"
    yield f"link set {control_link(plan.prefix)} up"


def services(plan: Plan, this: Node) -> str:
    """Return a node's nft ruleset: ClusterIPs for pods and host, masquerade of what leaves the VPC."""
    vpc_v4 = ", ".join([POD_CIDR_V4, plan.fabric_v4, *(o.cidr_v4 for o in plan.outsides if o.zone)])
    vpc_v6 = ", ".join([POD_CIDR_V6, "fd50::/64", *(o.cidr_v6 for o in plan.outsides if o.zone)])
    pods = plan.pods_on(this.name)
    return _nat_table(
        "ip",
        [_cluster_ip(plan, this, service, 4) for service in plan.services],
        f"ip saddr {this.pod_cidr_v4} ip daddr != {{ {vpc_v4} }} masquerade",
        [pod.address_v4 for pod in pods],
    ) + _nat_table(
        "ip6",
        [_cluster_ip(plan, this, service, 6) for service in plan.services],
        f"ip6 saddr {this.pod_cidr_v6} ip6 daddr != {{ {vpc_v6} }} masquerade",
        [pod.address_v6 for pod in pods],
    )


def _nat_table(family: str, rules: list[str], masquerade: str, pods: list[str]) -> str:
    # A pod that reaches itself through a Service would see its own address as the sender and drop it.
    hairpins = ", ".join(f"{pod} . {pod}" for pod in pods)
    hairpin = f"{family} saddr . {family} daddr {{ {hairpins} }} masquerade" if pods else ""
    dnat = "\n  ".join(rules)
    return f"""table {family} lab-nat
delete table {family} lab-nat
table {family} lab-nat {{
 chain services {{
  {dnat}
 }}
 chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
 chain output {{ type nat hook output priority -100; jump services; }}
 chain postrouting {{ type nat hook postrouting priority srcnat;
  {hairpin}
  {masquerade}
 }}
}}
"""


def _cluster_ip(plan: Plan, this: Node, service: Service, family: int) -> str:
    pods = plan.pods_of(service.workload)
    if service.prefer_close:
        # As kube-proxy does: end points of the node's own zone if there are any, else all.
        pods = tuple(pod for pod in pods if plan.node(pod.node).zone == this.zone) or pods
    table, address = ("ip", service.cluster_ip_v4) if family == 4 else ("ip6", service.cluster_ip_v6)
    backends = ", ".join(
        f"{index} : {pod.address_v4 if family == 4 else pod.address_v6} . {service.target_port}"
        for index, pod in enumerate(pods)
    )
    return (
        f"{table} daddr {address} {service.protocol} dport {service.port}"
        f" dnat {table} to numgen random mod {len(pods)} map {{ {backends} }}"
    )


def _routes_to_pods(plan: Plan, skip: Node | None) -> Iterator[str]:
    for other in plan.nodes:
        if other != skip:
            yield f"route add {other.pod_cidr_v4} via {other.address_v4} dev eth0 onlink"
            yield f"route add {other.pod_cidr_v6} via {other.address_v6} dev eth0 onlink"
