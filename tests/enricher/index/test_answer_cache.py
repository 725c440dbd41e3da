# SPDX-License-Identifier: Apache-2.0
"""What is remembered of addresses is what would be looked up again, whatever changed in between."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.index import answer_cache
from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from schemas.topology import TopologyState
from tests.support.enricher.build import node, pod, service

ADDRESSES = [
    "10.42.1.5",
    "10.42.1.6",
    "192.168.0.1",
    "10.96.0.1",
    "10.9.0.1",
    "2a00:1::5",
    "2a00:1:0:1::9",
    "8.8.8.8",
    "x",
]
CIDRS = CidrMap([Cidr(cidr="10.9.0.0/16", name="db", zone="eu-west-1b")])
TIMES = st.integers(0, 12)


def state_of(kind: str, name: str, addresses: list[str], version: int, times: tuple[int, int | None]) -> TopologyState:
    fields: dict[str, Any] = {"resource_version": str(version), "from_ms": times[0], "to_ms": times[1]}
    if kind == "pod":
        return pod(name, "", "node-" + name[-1], **fields, addresses=addresses)
    if kind == "service":
        return service(name, addresses[0], **fields)
    zone = "eu-west-1" + "abc"[version % 3]
    cidrs = ["10.42.1.0/24"] if version % 2 else ["10.42.0.0/16"]
    return node("node-" + name[-1], addresses[0], zone, **fields, pod_cidrs=cidrs)


STATES = st.builds(
    state_of,
    st.sampled_from(["pod", "pod", "node", "service"]),
    st.sampled_from(["p1", "p2", "p3"]),
    st.lists(st.sampled_from(ADDRESSES[:7]), min_size=1, max_size=2),
    st.integers(1, 6),
    st.tuples(TIMES, st.none() | TIMES),
)
STEPS = st.lists(STATES | st.tuples(TIMES, st.integers(1, 6)) | TIMES, min_size=1, max_size=25)


@given(STEPS)
@settings(max_examples=150)
def test_an_answer_remembered_is_the_one_found_anew(steps: list[TopologyState | tuple[int, int] | int]) -> None:
    """A state is taken in, a number prunes before it, a pair is a window that all addresses are asked of."""
    index = Index()
    remembering = Resolver(index, CIDRS)
    for step in steps:
        if isinstance(step, TopologyState):
            index.apply(step)
        elif isinstance(step, int):
            index.prune(step)
        else:
            span = (step[0], step[0] + step[1])
            kept, anew = remembering.window(*span), Resolver(index, CIDRS).window(*span)
            for address in ADDRESSES:
                one, other = kept.resolve(address), anew.resolve(address)
                assert (one.json(0), one.place, one.node, one.in_cluster) == (
                    other.json(0),
                    other.place,
                    other.node,
                    other.in_cluster,
                )
            for name in ("node-1", "node-2"):
                assert kept.watcher(name).json == anew.watcher(name).json


def test_an_answer_is_remembered_over_windows_until_something_changes() -> None:
    index = Index()
    index.apply(node("node-1", "192.168.0.1"))
    index.apply(pod("p-1", "10.42.1.5", "node-1", from_ms=100))
    resolver = Resolver(index, CIDRS)
    first = resolver.window(100, 110).resolve("10.42.1.5")
    assert resolver.memo.find(("10.42.1.5",), 5000, 5010)[0] is first
    assert resolver.memo.find(("10.42.1.5",), 99, 110)[0] is None
    index.apply(pod("p-2", "10.42.1.6", "node-1"))
    assert resolver.memo.find(("10.42.1.5",), 5000, 5010)[0] is first
    index.apply(pod("p-1", "10.42.1.5", "node-1", from_ms=100, resource_version="2", to_ms=400))
    assert resolver.memo.find(("10.42.1.5",), 100, 110)[0] is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_cache, "MAX_KEPT", 10)
    resolver = Resolver(Index(), CIDRS)
    for number in range(35):
        window = resolver.window(0, 10)
        assert window.resolve(f"8.8.8.{number}") is window.resolve(f"8.8.8.{number}")
        assert sum(resolver.memo.find((f"8.8.8.{n}",), 0, 10)[0] is not None for n in range(35)) <= 10
