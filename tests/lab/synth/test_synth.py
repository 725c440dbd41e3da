# SPDX-License-Identifier: Apache-2.0
"""A made-up cluster and its windows, read by the services' own code: decoded, indexed, joined, reconciled."""

import re
from collections import Counter

import msgspec
import pytest

from cli import lab
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, join, resolve
from lab.synth.cluster import SynthCluster
from lab.synth.traffic import CROSS_ZONE, DNAT, SHARES, WINDOW_MS, Traffic
from schemas.amount import Amount
from schemas.raw import RawChunk, decode_chunk
from schemas.topology import TopologyState, encode_topology, read_state

BEGIN_MS = 1_795_384_000_000
FLOWS = 1000
# As near as shares of a thousand rows are to those asked for.
NEAR = 0.03


def traffic(nodes: int, pods: int, flows: int, seed: int = 1) -> Traffic:
    return Traffic(SynthCluster(nodes, pods, seed), "synth", flows, BEGIN_MS)


def chunk_of(made: Traffic, node: int, number: int = 0) -> RawChunk:
    (value,) = made.window(node, number).chunks(False)
    return decode_chunk(value)


def joined(made: Traffic, node: int) -> Joined:
    index = Index()
    for state in made.cluster.states():
        index.apply(state)
    chunk = chunk_of(made, node)
    return join(chunk, resolve(chunk, Resolver(index, CidrMap([]))), 0, 0)


def amounts(found: Joined) -> list[dict[str, object]]:
    return [msgspec.json.decode(value) for value in found.values]


def test_the_same_seed_gives_the_same_cluster_and_the_same_windows() -> None:
    one, same, other = (traffic(30, 300, 50, seed) for seed in (7, 7, 8))
    assert list(one.cluster.states()) == list(same.cluster.states()) != list(other.cluster.states())
    # Asked for in another order, too.
    later = same.window(3, 1), same.window(3, 0)
    assert [list(one.window(3, number).chunks(False)) for number in (1, 0)] == [list(w.chunks(False)) for w in later]
    assert chunk_of(one, 3).bytes != chunk_of(one, 3, 1).bytes
    assert chunk_of(one, 3).addresses != chunk_of(other, 3).addresses


def test_a_windows_entry_in_the_ledger_is_what_its_chunk_comes_to() -> None:
    window = traffic(3, 30, FLOWS).window(2, 5)
    (value,) = window.chunks(False)
    chunk = decode_chunk(value)
    assert window.ledger.balance() is None
    assert window.ledger.given == Amount(sum(chunk.bytes), sum(chunk.packets), FLOWS)
    assert (chunk.start_ms, chunk.end_ms) == (BEGIN_MS + 5 * WINDOW_MS, BEGIN_MS + 6 * WINDOW_MS)
    assert (window.ledger.start_ms, window.ledger.end_ms) == (chunk.start_ms, chunk.end_ms)
    assert chunk.sequence == 6
    assert window.ledger.id == chunk.id.rpartition("/")[0]


@pytest.mark.parametrize(("nodes", "pods", "flows"), [(3, 3, 5000), (3, 750, 1), (40, 41, 333)])
def test_a_window_has_as_many_distinct_flows_as_asked_for(nodes: int, pods: int, flows: int) -> None:
    made = traffic(nodes, pods, flows)
    for node in (0, nodes - 1):
        rows: list[tuple[object, ...]] = []
        for value in made.window(node, 0).chunks(False):
            of = decode_chunk(value)
            ends = [(of.addresses[src], of.addresses[dst]) for src, dst in zip(of.src, of.dst, strict=True)]
            assert all(src != dst for src, dst in ends)
            rows += zip(ends, of.src_port, of.dst_port, of.direction, of.dnat, of.server, strict=True)
        assert len(set(rows)) == len(rows) == flows


def test_every_end_is_known_and_the_shares_are_those_that_are_said() -> None:
    made = traffic(30, 600, FLOWS)
    found = joined(made, 4)
    flows = amounts(found)
    scopes = Counter(flow["scope"] for flow in flows)
    assert "unknown" not in scopes
    of = {name: hundredths / 100 for name, hundredths in SHARES.items()}
    assert found.aside["sender_in_cluster"].rows / FLOWS == pytest.approx(of["from pods"], abs=NEAR)
    assert scopes["external"] / FLOWS == pytest.approx(of["to outside"] + of["from outside"], abs=NEAR)
    # Two thirds of what goes to nodes crosses zones as well: it goes to any.
    crosses = of["to pods"] * CROSS_ZONE + of["node"] * 2 / 3
    assert scopes["cross_zone"] / FLOWS == pytest.approx(crosses, abs=NEAR)
    assert sum(1 for each in chunk_of(made, 4).dnat if each) / FLOWS == pytest.approx(
        of["to pods"] / 2 * DNAT, abs=NEAR
    )
    assert set(found.senders) <= {made.cluster.node_name(node) for node in range(30)} - {made.cluster.node_name(4)}
    assert found.foreign_source == {}


def test_few_flows_carry_most_bytes_and_few_workloads_have_most_pods() -> None:
    made = traffic(30, 3000, FLOWS)
    sizes = sorted(chunk_of(made, 0).bytes, reverse=True)
    assert sum(sizes[: FLOWS // 10]) > sum(sizes) / 2
    pods = Counter(state.workload for state in made.cluster.states() if state.kind == "pod").most_common()
    assert len(pods) > 200
    assert sum(count for _, count in pods[:25]) > 3000 / 2


def test_names_and_addresses_are_those_of_a_cluster() -> None:
    states = list(SynthCluster(600, 9000, 1).states())
    assert [read_state(encode_topology(state), state.key) for state in states] == states
    of: dict[str, list[TopologyState]] = {}
    for state in states:
        of.setdefault(state.kind, []).append(state)
    assert (len(of["node"]), len(of["pod"])) == (600, 9000)
    addresses = [address for state in states for address in state.addresses]
    assert len(set(addresses)) == len(addresses)
    assert len({(pod.namespace, pod.name) for pod in of["pod"]}) == 9000
    nodes = {node.name: node for node in of["node"]}
    for pod in of["pod"]:
        assert pod.node is not None
        (cidr,) = nodes[pod.node].pod_cidrs
        assert pod.addresses[0].rpartition(".")[0] == cidr.removesuffix(".0/24")
        assert re.fullmatch(r"[a-z]+-[a-z]+(-\d+)?-([b-z2-9]{10}-[b-z2-9]{5}|\d+)", pod.name)
    assert re.fullmatch(r"ip-172-24-\d+-\d+\.eu-west-1\.compute\.internal", of["node"][0].name)
    assert Counter(node.zone for node in of["node"]) == dict.fromkeys(("eu-west-1a", "eu-west-1b", "eu-west-1c"), 200)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nodes", "10", "--pods", "9"], "pods = 9: expected 10 to 2500 with nodes = 10"),
        (["--nodes", "10", "--pods", "2501"], "pods = 2501: expected 10 to 2500 with nodes = 10"),
        (["--nodes", "2"], "nodes (--nodes, "),
        (["--flows", "0"], "flows (--flows, "),
        (["--seed", "-1"], "seed (--seed, "),
        (["--topology", "/nowhere/topology.json"], "topology = '/nowhere/topology.json': No such file or directory"),
    ],
)
def test_what_makes_no_cluster_is_refused_in_one_line(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        lab.synth(flags)
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zonemeter lab synth: ")
    assert said in line
