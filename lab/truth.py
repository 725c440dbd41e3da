# SPDX-License-Identifier: Apache-2.0
"""What really went over the wire: a count per pair of addresses that owes nothing to the hook.

nft counters, in the fabric's namespace behind the senders' segmentation, and at the ingress of every pod for
traffic that never leaves its node. Sums are of IP-layer bytes as a wire would see them: each segment and each
fragment has its own header, Ethernet is not included. Addresses are those on the wire there: on the fabric after
SNAT, so masqueraded traffic is its node's. What a pod sends to its own host is not seen (it is never segmented).
"""

import ipaddress
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab import network_script as script
from lab.errors import LabError
from lab.namespaces import enter, run
from lab.plan import Plan

Pair = tuple[str, str]
"""Source and destination address."""

_PAIRS = 65_535  # per table and family; beyond it `read` fails instead of reporting too little


@dataclass(frozen=True, slots=True)
class Amount:
    """IP-layer bytes and packets (segments)."""

    bytes: int
    packets: int


def fabric_ruleset() -> str:
    """Return the counters of the fabric: every frame that comes in over a port of the bridge, once."""
    return _ruleset("bridge", "type filter hook prerouting priority 0;")


def pod_ruleset() -> str:
    """Return the counters of a pod: every packet that comes in over its link."""
    return _ruleset("netdev", "type filter hook ingress device eth0 priority 0;")


def read(plan: Plan) -> dict[Pair, Amount]:
    """Read the count since the lab was made; raises `LabError` if a counter is incomplete."""
    pairs = _read_table(script.fabric_namespace(plan.prefix), "bridge")
    node_of = {address: pod.node for pod in plan.pods for address in (pod.address_v4, pod.address_v6)}
    node_of |= {address: node.name for node in plan.nodes for address in (node.address_v4, node.address_v6)}
    for pod in plan.pods:
        if pod.workload.host_network:
            continue
        for pair, amount in _read_table(script.pod_namespace(plan.prefix, pod), "netdev").items():
            if node_of.get(pair[0]) == pod.node:
                pairs[pair] = amount
    return pairs


def dropped(plan: Plan) -> int:
    """Return how many packets nodes sent over their links and nobody received.

    0 means that `read` lacks nothing; else it may, by at most so many (a drop at a receiver's pod counts here too).
    """
    total = 0
    for node in plan.nodes:
        shown = json.loads(run(["ip", "-n", script.node_namespace(plan.prefix, node.name), "-j", "-s", "link"]))
        total += sum(link["stats64"]["tx"]["dropped"] for link in shown)
    return total


def _ruleset(family: str, hook: str) -> str:
    return f"""table {family} lab-truth {{
 set pairs4 {{ typeof ip saddr . ip daddr; size {_PAIRS}; flags dynamic; counter; }}
 set pairs6 {{ typeof ip6 saddr . ip6 daddr; size {_PAIRS}; flags dynamic; counter; }}
 counter total {{ }}
 chain count {{ {hook}
  ether type ip counter name total add @pairs4 {{ ip saddr . ip daddr }}
  ether type ip6 counter name total add @pairs6 {{ ip6 saddr . ip6 daddr }}
 }}
}}
"""


def _read_table(namespace: str, family: str) -> dict[Pair, Amount]:
    with enter(namespace):
        listed: list[dict[str, Any]] = json.loads(run(["nft", "-j", "list", "table", family, "lab-truth"]))["nftables"]
    pairs = dict(element for item in listed if "set" in item for element in _elements(item["set"]))
    total = next(item["counter"] for item in listed if "counter" in item)
    counted = Counter(packets=0, bytes=0)
    for amount in pairs.values():
        counted.update(packets=amount.packets, bytes=amount.bytes)
    if counted["packets"] < total["packets"] and len(pairs) >= _PAIRS:
        raise LabError(f"truth: {namespace} saw more than {_PAIRS} pairs of addresses; its count is incomplete")
    return pairs


def _elements(described: dict[str, Any]) -> Iterator[tuple[Pair, Amount]]:
    for wrapped in described.get("elem", []):
        element = wrapped["elem"]
        source, destination = element["val"]["concat"]
        counter = element["counter"]
        yield (
            (str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination))),
            Amount(counter["bytes"], counter["packets"]),
        )
