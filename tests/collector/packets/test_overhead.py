# SPDX-License-Identifier: Apache-2.0
"""What an overlay costs, from the packets to the metric and the flow log: per pair of nodes, to the byte.

The pods' packets go through a real VXLAN; the truth is what the fabric counts behind the nodes. Kafka is left out: what
the nodes' collectors would publish goes straight through the join and into the sinks' own tables.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from collector.window.encode import raw_chunks
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from schemas.flow import Flow, decode_flow
from schemas.raw import decode_chunk
from sinks.flowlog.rows.columns import flatten
from sinks.flowlog.rows.parquet import ParquetRows
from sinks.intake import Intake, Lane
from tests.sinks.metrics.test_aggregate import OUTER, Counting
from tests.support.collector import counting_lab, metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, node_address6, pod_address, pod_address6, wait_until
from tests.support.enricher.build import node, pod
from tests.support.sinks.flows import records

Meters = dict[int, Metered]
DOCS = Path(__file__).resolve().parents[3] / "docs"
FABRIC = {4: (node_address(1), node_address(2)), 6: (node_address6(1), node_address6(2))}
PODS = {4: (pod_address(1, 1), pod_address(2, 1)), 6: (pod_address6(1, 1), pod_address6(2, 1))}
# IP, UDP and VXLAN around the pods' packets, and the Ethernet header that is inside.
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}


@pytest.fixture(params=[4, 6], ids=["over-ipv4", "over-ipv6"])
def outer(meters: Meters, request: pytest.FixtureRequest) -> Iterator[int]:
    """The pods of the two nodes reach each other through a VXLAN, and the fabric counts its packets."""
    version: int = request.param
    netlab.count_on_fabric([FABRIC[version], FABRIC[version][::-1]], "meta l4proto udp")
    try:
        for number, other in ((1, 2), (2, 1)):
            netlab.add_vxlan(number, other, outer6=version == 6)
            meters[number].meter.set_devices(metered.devices(f"node{number}"))
            netlab.ip(f"node{number}", "link set vx0 up")
        with counting_lab.through_overlay():
            yield version
    finally:
        for number in (1, 2):
            netlab.del_vxlan(number)
            meters[number].meter.set_devices(metered.devices(f"node{number}"))


def index() -> Index:
    made = Index()
    for number, zone in ((1, "eu-west-1a"), (2, "eu-west-1b")):
        name, six = f"node{number}", node_address6(number)
        made.apply(node(name, node_address(number), zone, addresses=[node_address(number), six], from_ms=0))
        both = [pod_address(number, 1), pod_address6(number, 1)]
        made.apply(pod(f"pod{number}", both[0], name, addresses=both, from_ms=0))
    return made


class Cluster:
    """What both nodes counted, joined."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._resolver = Resolver(index(), CidrMap([]))
        self.values: list[bytes] = []

    def close_windows(self) -> list[Flow]:
        """Return all flows so far."""
        for each in self._meters.values():
            window = each.meter.flip(metered.now_ms())
            for value in raw_chunks(window.meta, window.record, window.rows(), maybe_repeat=False):
                chunk = decode_chunk(value)
                self.values += join(chunk, resolve(chunk, self._resolver), 0, 0).values
            each.meter.finish(window)
        return [decode_flow(value) for value in self.values]

    def outer(self, ends: tuple[str, str]) -> tuple[int, int]:
        """Close the windows, and return bytes and packets of all outer packets between two nodes."""
        flows = [f for f in self.close_windows() if (f.source.address, f.destination.address) == ends]
        marked = [f for f in flows if f.encapsulation == "vxlan"]
        return sum(f.bytes for f in marked), sum(f.packets for f in marked)

    def metric(self) -> dict[tuple[str, ...], int]:
        """Return what the metrics sink counts as outer bytes."""
        counting = Counting()
        counting.count_values(self.values)
        return counting.counters()[OUTER]

    def ask_flow_log(self, sql: str, directory: Path) -> list[tuple[object, ...]]:
        """Return what a query of the documentation answers over a flow log of these flows."""
        log = ParquetRows()
        log.add(Intake(flatten).take(Lane(0), records(self.values), metered.now_ms()).rows)
        file = directory / "date=2026-11-26" / "hour=07" / "one.parquet"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"".join(log.encode()))
        assert "/var/lib/zonemeter/flowlog/" in sql
        found = duckdb.connect().execute(sql.replace("/var/lib/zonemeter/flowlog/", f"{directory}/")).fetchall()
        return sorted(found)


def documented_query() -> str:
    text = (DOCS / "counting.md").read_text()
    found = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("inner", [4, 6], ids=["ipv4", "ipv6"])
def test_overhead_of_a_pair_of_nodes_is_outer_minus_inner(
    meters: Meters, outer: int, inner: int, tmp_path: Path
) -> None:
    cluster = Cluster(meters)
    (a, b), there = PODS[inner], FABRIC[outer]
    back = there[::-1]
    netlab.send_tcp("pod11", "pod21", b, at=b, port=8080, at_port=8080, size=2_000_000)
    netlab.send_udp("pod11", "pod21", b, count=7, size=900)
    netlab.send_udp("pod21", "pod11", a, count=5, size=900)
    netlab.send_udp("node1", "node2", there[1], count=3, size=500, port=5353)  # beside the overlay
    own = 3 * (500 + 28 + (20 if outer == 6 else 0))

    def truth() -> dict[tuple[str, str], tuple[int, int]]:
        """Outer packets on the fabric, less the nodes' own datagrams."""
        counts = netlab.fabric_counts([there, back])
        return counts | {there: (counts[there][0] - own, counts[there][1] - 3)}

    def told() -> dict[tuple[str, str], tuple[int, int]]:
        return {ends: cluster.outer(ends) for ends in (there, back)}

    assert wait_until(lambda: told() == truth()), (told(), truth())
    sent, answered = truth().values()
    assert sent[1] > 1400
    assert answered[1] >= 5
    assert cluster.metric() == {
        ("test", "node1", "node2", "vxlan"): sent[0],
        ("test", "node2", "node1", "vxlan"): answered[0],
    }
    costs = {ends: OVERHEAD[outer] * packets for ends, (_, packets) in truth().items()}
    assert cluster.ask_flow_log(documented_query(), tmp_path) == [
        ("node1", "node2", sent[0], sent[0] - costs[there], costs[there]),
        ("node2", "node1", answered[0], answered[0] - costs[back], costs[back]),
    ]
