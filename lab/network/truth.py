# SPDX-License-Identifier: Apache-2.0
"""What really went over the wire: a count per pair of addresses that owes nothing to the hook.

nft counters behind the segmentation: in the fabric's namespace, and at the ingress of every pod for what never
leaves its node. Sums are of IP-layer bytes as a wire would see them: each segment and each fragment has its own
header, Ethernet is not included. On the fabric, addresses are those after SNAT: masqueraded traffic is its node's.
At a pod they would be those after a Service's reply was translated back, so there the sender is known by the source
MAC address, which its node sets from a packet mark. What a pod sends to its own host is not seen: nothing cuts it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab.errors import LabError
from lab.network import script
from lab.network.namespaces import enter, run
from lab.plan import Node, Plan, Pod

Pair = tuple[str, str]
"""Source and destination address."""

_MAC_PREFIX = "ee:ee:ee:ee:00:"  # and a pod's number on its node
_HOST = 1
_POD_NUMBERS = range(10, 255)
_PAIRS = 65_535  # per table and family; beyond it `read` fails instead of reporting too little


@dataclass(frozen=True, slots=True)
class Amount:
    """IP-layer bytes and packets (segments)."""

    bytes: int
    packets: int


def fabric_ruleset(family: str = "bridge", hook: str = "prerouting") -> str:
    """Return the counters of the fabric: every frame that comes in over a port of the bridge, or at a hook, once."""
    return f"""table {family} lab-truth {{
 set pairs4 {{ typeof ip saddr . ip daddr; size {_PAIRS}; flags dynamic; counter; }}
 set pairs6 {{ typeof ip6 saddr . ip6 daddr; size {_PAIRS}; flags dynamic; counter; }}
 counter total {{ }}
 chain count {{ type filter hook {hook} priority 0;
  ether type ip counter name total add @pairs4 {{ ip saddr . ip daddr }}
  ether type ip6 counter name total add @pairs6 {{ ip6 saddr . ip6 daddr }}
 }}
}}
"""


def node_ruleset() -> str:
    """Return what marks, on a node, the packets of each of its pods and of itself."""
    marks = ", ".join(f'"{script.POD_LINK}{number}" : {number}' for number in _POD_NUMBERS)
    macs = ", ".join(f"{number} : {_MAC_PREFIX}{number:02x}" for number in (_HOST, *_POD_NUMBERS))
    return f"""table inet lab-truth {{
 chain forward {{ type filter hook forward priority 0; meta mark set iifname map {{ {marks} }}; }}
 chain output {{ type filter hook output priority 0; meta mark set {_HOST}; }}
}}
table netdev lab-truth {{
 map macs {{ type mark : ether_addr; elements = {{ {macs} }}; }}
}}
"""


def link_ruleset(link: str) -> str:
    """Return what writes the sender into what a node sends over a pod's link."""
    hook = f"type filter hook egress device {link} priority 0;"
    return f"table netdev lab-truth {{ chain {link} {{ {hook} ether saddr set meta mark map @macs; }}; }}\n"


def pod_ruleset() -> str:
    """Return the counters of a pod: every packet that comes in over its link, by the MAC address of its sender."""
    return f"""table netdev lab-truth {{
 set pairs4 {{ typeof ether saddr . ip saddr . ip daddr; size {_PAIRS}; flags dynamic; counter; }}
 set pairs6 {{ typeof ether saddr . ip6 saddr . ip6 daddr; size {_PAIRS}; flags dynamic; counter; }}
 counter total {{ }}
 chain count {{ type filter hook ingress device eth0 priority 0;
  ether type ip counter name total add @pairs4 {{ ether saddr . ip saddr . ip daddr }}
  ether type ip6 counter name total add @pairs6 {{ ether saddr . ip6 saddr . ip6 daddr }}
 }}
}}
"""


def read(plan: Plan) -> dict[Pair, Amount]:
    """Read the count since the lab was made; raises `LabError` if a counter is incomplete."""
    pairs = read_fabric(script.fabric_namespace(plan.prefix))
    for node in plan.nodes:
        pods = plan.pods_on(node.name)
        senders: dict[str, Node | Pod] = {f"{_MAC_PREFIX}{_HOST:02x}": node}
        senders |= {f"{_MAC_PREFIX}{int(script.pod_number(pod)):02x}": pod for pod in pods}
        for pod in pods:
            for (mac, source, destination), amount in _read_table(script.pod_namespace(plan.prefix, pod), "netdev"):
                if sender := senders.get(mac):
                    pair = (_untranslated(source, sender), destination)
                    known = pairs.get(pair, Amount(0, 0))
                    pairs[pair] = Amount(known.bytes + amount.bytes, known.packets + amount.packets)
    return pairs


def read_fabric(namespace: str, family: str = "bridge") -> dict[Pair, Amount]:
    """Read the count of `fabric_ruleset` in a namespace since it was made; raises `LabError` if it is incomplete."""
    return {(source, destination): amount for (source, destination), amount in _read_table(namespace, family)}


def dropped(plan: Plan) -> int:
    """Return how many packets nodes sent over their links and nobody received.

    0 means that `read` lacks nothing; else it may, by at most so many (a drop at a receiver's pod counts here too).
    """
    total = 0
    for node in plan.nodes:
        shown = json.loads(run(["ip", "-n", script.node_namespace(plan.prefix, node.name), "-j", "-s", "link"]))
        total += sum(link["stats64"]["tx"]["dropped"] for link in shown)
    return total


def _untranslated(source: str, sender: Node | Pod) -> str:
    """Return the sender's own address instead of a ClusterIP's; neighbour discovery's link-local ones stay."""
    if source.startswith("fe80:"):
        return source
    return sender.address_v6 if ":" in source else sender.address_v4


def _read_table(namespace: str, family: str) -> list[tuple[list[str], Amount]]:
    with enter(namespace):
        listed: list[dict[str, Any]] = json.loads(run(["nft", "-j", "list", "table", family, "lab-truth"]))["nftables"]
    counted = [element for item in listed if "set" in item for element in _elements(item["set"])]
    total = next(item["counter"] for item in listed if "counter" in item)
    if len(counted) >= _PAIRS and sum(amount.packets for _, amount in counted) < total["packets"]:
        raise LabError(f"truth: {namespace} saw more than {_PAIRS} pairs of addresses; its count is incomplete")
    return counted


def _elements(described: dict[str, Any]) -> Iterator[tuple[list[str], Amount]]:
    for wrapped in described.get("elem", []):
        element, counter = wrapped["elem"], wrapped["elem"]["counter"]
        yield element["val"]["concat"], Amount(counter["bytes"], counter["packets"])
