# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/counting.md, row by row: each way a packet can take, with real packets, on both nodes.

The tables are what is expected, one for each hook; the test of a row that is not there fails, and so does the row
without a test.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from schemas.raw import ENCAPSULATIONS, Hook
from tests.support.collector import counting_lab, metered, netlab
from tests.support.collector.counting_lab import REPLIES, REPLY_BYTES, REQUEST_BYTES, REQUESTS, Way, exchange, ways
from tests.support.collector.metered import Flow, Metered

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "counting.md"
HEADINGS: dict[Hook, str] = {"netfilter": "## Where it is counted\n", "tc": "## Where tc counts it\n"}
THE_SAME = "the same"
NETWORKS = ("routed", "bridge-nf", "bridge", "vxlan")
# Without bridge-nf-call-iptables an answer between ports of the bridge does not pass the connection's translation.
BROKEN = {("bridge", "clusterip"), ("bridge", "hairpin")}
UDP = 17
VXLAN_OVERHEAD = 20 + 8 + 8 + 14  # IPv4, UDP, VXLAN, Ethernet


def _table(hook: Hook) -> dict[str, dict[str, str]]:
    """Return a table's rows by name, each as its cells by heading."""
    text = DOCUMENT.read_text().split(HEADINGS[hook], 1)[1].split("\n## ", 1)[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    heads, _, *rows = lines
    return {cells[0].strip("`"): dict(zip(heads, cells, strict=True)) for cells in rows}


TABLES = {hook: _table(hook) for hook in HEADINGS}
WAYS = {(network, row): way for network in NETWORKS for row, way in ways(network).items()}
CASES = [
    pytest.param(hook, network, row, family, id=f"{hook}-{row}-{network}-{'ipv6' if family else 'ipv4'}")
    for hook in HEADINGS
    for network, row in WAYS
    for family in (0, 1)
    if (network, row) not in BROKEN and (not family or network == "routed" or row.startswith("pod-pod-"))
    # What a bridge does is not seen from the uplinks.
    if hook == "netfilter" or network in ("routed", "vxlan") or row.startswith("pod-pod-bridge")
]


@pytest.mark.parametrize("hook", HEADINGS)
def test_each_row_has_its_test_and_each_test_its_row(hook: Hook) -> None:
    assert list(TABLES[hook]) == list(TABLES["netfilter"])
    assert set(TABLES[hook]) == {row for _, row in WAYS}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    try:
        netlab.build()
        counting_lab.add_bridge()
        counting_lab.add_services()
        yield
    finally:
        netlab.tear_down()


class Pair:
    """Both nodes' meters, at one hook at a time."""

    def __init__(self, *, direct_loads: bool) -> None:
        self._direct_loads = direct_loads
        self.hook: Hook | None = None
        self.meters: dict[str, Metered] = {}

    def at(self, hook: Hook) -> dict[str, Metered]:
        """Return the meters at a hook, with nothing of earlier packets in them."""
        if hook != self.hook:
            self.detach()
            self.hook = hook
            for name, node in (("A", "node1"), ("B", "node2")):
                changed = {"node": node, "hook": hook, "direct_loads": self._direct_loads}
                wanted = metered.request(metered.pin_dir(f"counting-{node}"), **changed)
                self.meters[name] = Metered(node, wanted)
        for meter in self.meters.values():
            meter.forget()
        return self.meters

    def detach(self) -> None:
        for meter in self.meters.values():
            meter.detach()
        self.meters.clear()


@pytest.fixture(scope="module", params=metered.BOTH_PROGRAMS, ids=metered.PROGRAM_NAMES)
def pair(cluster: None, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(direct_loads=request.param)
    try:
        yield made
    finally:
        made.detach()


@pytest.mark.parametrize(("hook", "network", "row", "family"), CASES)
def test_row(pair: Pair, hook: Hook, network: str, row: str, family: int) -> None:
    counting_lab.show_bridge_to_netfilter(on=network == "bridge-nf")
    way, counted = WAYS[network, row], pair.at(hook)
    with _overlay(counted) if network == "vxlan" else nullcontext():
        exchange(way, family)
    requests, replies = _records(counted, way, family)
    assert requests == _cell(hook, row, "request")
    assert replies == _cell(hook, row, "reply")


def _cell(hook: Hook, row: str, heading: str) -> list[str]:
    cell = TABLES[hook][row][heading].replace("`", "")
    if cell == THE_SAME:
        return _cell("netfilter", row, heading)
    return [] if cell == "nowhere" else sorted(cell.split("<br>"))


@contextmanager
def _overlay(counted: dict[str, Metered]) -> Iterator[None]:
    try:
        for node, other, meter in ((1, 2, counted["A"]), (2, 1, counted["B"])):
            netlab.add_vxlan(node, other)
            meter.follow()
            netlab.ip(f"node{node}", "link set vx0 up")
        yield
    finally:
        for node, meter in ((1, counted["A"]), (2, counted["B"])):
            meter.collect()
            netlab.del_vxlan(node)
            meter.follow()


def _records(counted: dict[str, Metered], way: Way, family: int) -> tuple[list[str], list[str]]:
    """Return what both nodes have counted, in the words of the table; every record has all the bytes."""
    requests: list[str] = []
    replies: list[str] = []
    for name, meter in counted.items():
        meter.collect()
        for flow, amount in meter.flows.items():
            if flow.protocol != UDP:
                continue
            is_request = flow.src == counting_lab.A[0] if flow.encapsulation else flow.dst_port > 0
            count, payload = (REQUESTS, REQUEST_BYTES) if is_request else (REPLIES, REPLY_BYTES)
            header = (48 if family else 28) + (VXLAN_OVERHEAD if flow.encapsulation else 0)
            assert amount == (count * (payload + header), count), (name, flow)
            (requests if is_request else replies).append(_words(name, flow, way, family))
    return sorted(requests), sorted(replies)


def _words(observer: str, flow: Flow, way: Way, family: int) -> str:
    names = {way.server_at[family]: "server", way.client_at[family]: "client"}
    for name, addresses in (("A", counting_lab.A), ("B", counting_lab.B), ("outside", counting_lab.OUTSIDE)):
        names |= dict.fromkeys(addresses, name)
    names |= dict.fromkeys(counting_lab.BALANCERS, "balancer")
    marks = [" dnat"] if flow.dnat == 1 else []
    marks += [f" {ENCAPSULATIONS[flow.encapsulation]}"] if flow.encapsulation else []
    return (
        f"{observer} {flow.direction} {names.get(flow.src, flow.src)} > {names.get(flow.dst, flow.dst)}{''.join(marks)}"
    )
