# SPDX-License-Identifier: Apache-2.0
"""The interval index against a slow and obvious model, in any order of arrival."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enricher.index import ownership, tenancy
from enricher.index.addresses import Prefix, pack, parse_prefix
from enricher.index.ownership import Index, merge, slots_of
from enricher.index.parts import PART
from enricher.index.tenancy import FOREVER
from schemas.topology import TopologyState
from tests.support.enricher.build import END, START, done, node, pod

ADDRESSES = ["10.0.0.1", "10.0.0.2", "fd00::1"]


class Holder(NamedTuple):
    """A state in the model: it holds its addresses within [start, end), got between `got` and `by`, had to `left`."""

    state: TopologyState
    start: int
    end: int
    got: int
    by: int
    left: int

    def after(self, other: "Holder") -> bool:
        """Whether this one surely got the address after the other did."""
        return self.got >= other.by and self.by > other.by


def holder(state: TopologyState, end: int) -> Holder:
    got = state.from_ms if state.acquired_from_ms is None else state.acquired_from_ms
    by = state.from_ms if state.acquired_by_ms is None else state.acquired_by_ms
    left = -1 if state.released_from_ms is None else min(state.released_from_ms, end)
    return Holder(state, state.from_ms, end, got, max(got, min(max(got, by), end)), left)


def model_owners(states: list[TopologyState], slot: Any, start: int, end: int) -> list[TopologyState]:
    """Work out who may have held `slot` from the whole set of states at once, one moment after the other."""
    merged: dict[tuple[str, str, str], TopologyState] = {}
    for state in states:
        key = (state.kind, state.uid, state.resource_version)
        merged[key] = merge(merged[key], state) if key in merged else state

    def order(state: TopologyState) -> tuple[int, str, int, str]:
        return state.from_ms, state.uid, len(state.resource_version), state.resource_version

    def cut(state: TopologyState) -> int:
        later = [s.from_ms for s in merged.values() if s.uid == state.uid and order(s) > order(state)]
        return min([FOREVER if state.to_ms is None else state.to_ms, *later])

    holders = [holder(s, cut(s)) for s in merged.values() if slot in slots_of(s)]

    def may_hold(one: Holder, at: int) -> bool:
        over = at >= one.left and any(other.after(one) and other.by <= at for other in holders)
        early = at < one.by and any(one.after(other) and at < other.left for other in holders)
        return one.start <= at < one.end and not over and not early

    found = [one for one in holders if any(may_hold(one, at) for at in range(start, end))]
    return [one.state for one in sorted(found, key=lambda one: order(one.state))]


@st.composite
def states(draw: st.DrawFn) -> TopologyState:
    start = draw(st.integers(0, 60))
    moments = st.none() | st.integers(0, 60)
    return pod(
        "x",
        "",
        "n",
        uid=draw(st.sampled_from(["a", "b", "c"])),
        resource_version=draw(st.sampled_from(["1", "2", "3", "10"])),
        addresses=draw(st.lists(st.sampled_from(ADDRESSES), max_size=2)),
        from_ms=start,
        to_ms=draw(moments),
        acquired_from_ms=draw(moments),
        acquired_by_ms=draw(moments),
        released_from_ms=draw(moments),
        host_network=draw(st.integers(0, 9)) == 0,
    )


@given(st.lists(states(), max_size=12), st.integers(0, 60), st.integers(1, 20))
@settings(max_examples=150)
def test_index_agrees_with_the_model(given_states: list[TopologyState], start: int, length: int) -> None:
    index = Index()
    for state in given_states:
        index.apply(state)
    for address in ADDRESSES:
        slot = ("pod", pack(address))
        found = index.owners(slot, start, start + length)  # type: ignore[arg-type]
        expected = model_owners(given_states, slot, start, start + length)
        assert sorted(found, key=str) == sorted(expected, key=str)


@given(st.lists(states(), max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_order_of_arrival_does_not_matter(given_states: list[TopologyState], random: Any) -> None:
    shuffled = [*given_states, *given_states[:3]]
    random.shuffle(shuffled)
    one, other = Index(), Index()
    for state in given_states:
        one.apply(state)
    for state in shuffled:
        other.apply(state)
    for address, start in itertools.product(ADDRESSES, range(0, 62, 3)):
        slot = ("pod", pack(address))
        assert one.owners(slot, start, start + 3) == other.owners(slot, start, start + 3)  # type: ignore[arg-type]
    assert one.states == other.states
    assert one.slots == other.slots


# Over before the horizon, but got its address after it: whoever has it until then has it no longer.
_GOT_LATER = pod("x", ADDRESSES[0], "n", uid="a", from_ms=3, to_ms=4, acquired_from_ms=12)


@given(st.lists(states(), max_size=12), st.integers(0, 60), st.lists(states(), max_size=3))
@example([_GOT_LATER], 7, [pod("y", ADDRESSES[0], "n", uid="b", from_ms=2)])
@settings(max_examples=150)
def test_pruning_changes_no_answer_after_its_horizon(
    given_states: list[TopologyState], horizon: int, later: list[TopologyState]
) -> None:
    index = Index()
    for state in given_states:
        index.apply(state)
    before = index.states
    assert len(done(index.pruning(horizon))) == before - index.states
    newer = [
        msgspec.structs.replace(
            s,
            resource_version=f"new{i}",
            from_ms=horizon + s.from_ms,
            acquired_from_ms=None if s.acquired_from_ms is None else horizon + s.acquired_from_ms,
            acquired_by_ms=None if s.acquired_by_ms is None else horizon + s.acquired_by_ms,
        )
        for i, s in enumerate(later)
    ]
    for state in newer:
        index.apply(state)
    for address, start in itertools.product(ADDRESSES, range(horizon, horizon + 64)):
        slot = ("pod", pack(address))
        found = index.owners(slot, start, start + 1)  # type: ignore[arg-type]
        expected = model_owners([*given_states, *newer], slot, start, start + 1)
        assert sorted(found, key=str) == sorted(expected, key=str)


def test_pruning_forgets_what_has_ended() -> None:
    index = Index()
    index.apply(pod("a", "10.0.0.1", "n", from_ms=0, to_ms=10))
    index.apply(pod("b", "10.0.0.1", "n", from_ms=20))
    assert (index.states, index.slots) == (2, 1)
    assert [state.name for state in index.prune(10)] == ["a"]
    assert (index.states, index.slots) == (1, 1)
    index.apply(pod("c", "10.0.0.2", "n", from_ms=0, to_ms=5))
    index.prune(10)
    assert (index.states, index.slots) == (1, 1)


def test_pruning_is_in_parts_and_minds_what_changes_meanwhile() -> None:
    index = Index()
    for number in range(3 * PART):
        index.apply(pod(f"p{number}", f"10.0.{number // 250}.{number % 250}", "n", from_ms=0, to_ms=5))
    work, yields = index.pruning(10), 0
    with pytest.raises(StopIteration) as finished:
        while True:
            next(work)
            yields += 1
            index.apply(pod(f"new{yields}", f"10.1.0.{yields}", "n", from_ms=0))
            # It had its address from later on than was known.
            index.apply(pod("p0", "10.0.0.0", "n", from_ms=20, resource_version="101"))
            index.prune(10, keys=["pod/uid-p1"])
    assert yields == 3
    kept = {state.name for state in index.current()}
    assert kept == {"p0", "new1", "new2", "new3"}
    assert len(finished.value.value) == 3 * PART - 1, "all but p1, which was forgotten before; of p0 the first state"


def test_pruning_looks_at_a_state_a_few_times_however_many_its_object_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EndpointSlice of a Service that scales all day has thousands of states when the first of them are too old."""
    looked = Counter[str]()

    def order(state: TopologyState) -> tuple[int, str, int, str]:
        looked["at"] += 1
        return tenancy.order(state)

    index = Index()
    for number in range(1024):
        version = {"from_ms": number, "resource_version": f"{number}"}
        index.apply(pod("x", "", "n", kind="endpointslice", uid="s", **version))
    monkeypatch.setattr(ownership, "order", order)
    assert len(index.prune(START)) == 1023
    assert looked["at"] < 20 * 1024


def test_shrinking_forgets_end_points_first() -> None:
    """A rollout makes many states of an EndpointSlice, which no address needs."""
    index = Index()
    for number in range(10):
        index.apply(pod(f"gone-{number}", f"10.0.1.{number}", "n", from_ms=number, to_ms=100 + number))
        state = pod("x", "", "n", kind="endpointslice", uid="s", from_ms=200 + number, resource_version=f"{number}")
        index.apply(state)
    assert (index.shrink(15), index.states) == (5, 15)
    assert sum(state.kind == "pod" for state in index.current()) == 10
    assert (index.shrink(6), index.states) == (9, 6)
    assert {state.kind for state in index.current()} == {"pod", "endpointslice"}


def test_shrinking_forgets_what_ended_longest_ago_and_nothing_that_holds() -> None:
    index = Index()
    for number in range(20):
        index.apply(pod(f"gone-{number}", f"10.0.1.{number}", "n", from_ms=number, to_ms=100 + number))
    for number in range(5):
        index.apply(pod(f"here-{number}", f"10.0.2.{number}", "n", from_ms=0))
    assert (index.shrink(25), index.shrink(15), index.states) == (0, 10, 15)
    assert {state.name for state in index.current() if state.to_ms} == {f"gone-{n}" for n in range(10, 20)}
    assert (index.shrink(2), index.states) == (10, 5)


@given(st.lists(states(), max_size=20), st.integers(0, 20))
@settings(max_examples=100)
def test_shrunk_it_is_small_enough_unless_all_that_is_left_still_counts(
    given_states: list[TopologyState], most: int
) -> None:
    index = Index()
    for state in given_states:
        index.apply(state)
    before = index.states
    assert index.shrink(most) == before - index.states
    if most >= before:
        assert index.states == before


def test_later_owner_closes_the_earlier_open_one() -> None:
    index = Index()
    old, new = pod("old", "10.0.0.1", "n", from_ms=START - 5000), pod("new", "10.0.0.1", "n", from_ms=START + 4000)
    index.apply(new)
    index.apply(old)
    slot = ("pod", pack("10.0.0.1"))
    assert index.owners(slot, START - 100, START) == [old]  # type: ignore[arg-type]
    assert index.owners(slot, START, END) == [old, new]  # type: ignore[arg-type]
    assert index.owners(slot, END, END + 1) == [new]  # type: ignore[arg-type]


def test_a_closed_state_given_again_open_stays_closed() -> None:
    index = Index()
    closed = pod("a", "10.0.0.1", "n", to_ms=START)
    assert index.apply(closed)
    assert not index.apply(msgspec.structs.replace(closed, to_ms=None))
    assert index.owners(("pod", pack("10.0.0.1")), START, END) == []  # type: ignore[arg-type]


def test_longest_pod_cidr_wins_and_goes_with_its_node() -> None:
    index = Index()
    wide = node("wide", "192.0.2.1", pod_cidrs=("10.42.0.0/16",))
    narrow = node("narrow", "192.0.2.2", pod_cidrs=("10.42.7.0/24",), to_ms=START)
    index.apply(wide)
    index.apply(narrow)
    address = pack("10.42.7.9")
    assert address is not None
    longest, shorter = index.cidr_slots(address)
    assert index.owners(longest, START - 10, START) == [narrow]
    assert index.owners(longest, START, END) == []
    assert index.owners(shorter, START, END) == [wide]
    index.prune(START)
    assert index.cidr_slots(address) == [shorter]


def test_shared_ipv6_site_comes_and_goes() -> None:
    index = Index()
    index.apply(pod("six", "2001:db8:0:1200::5", "n", to_ms=START))
    near, far = pack("2001:db8:0:12ff::1"), pack("2001:db8:0:1300::1")
    assert near is not None
    assert far is not None
    assert (index.shares_site(near), index.shares_site(far)) == (True, False)
    index.prune(START)
    assert not index.shares_site(near)


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        pytest.param("10.0.0.1", b"\x0a\0\0\1", id="ipv4"),
        pytest.param("::ffff:10.0.0.1", b"\x0a\0\0\1", id="ipv4 mapped into ipv6"),
        pytest.param("FD00:0::1", b"\xfd" + bytes(14) + b"\1", id="ipv6 written otherwise"),
        pytest.param("10.0.0", None, id="too short"),
        pytest.param("10.0.0.1/8", None, id="a prefix"),
        pytest.param("a\0b", None, id="nul"),
        pytest.param("", None, id="empty"),
    ],
)
def test_pack(text: str, packed: bytes | None) -> None:
    assert pack(text) == packed


def test_parse_prefix() -> None:
    assert parse_prefix("10.42.7.9/24") == Prefix(32, 24, 0x0A2A07)
    assert [parse_prefix(t) for t in ("10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "10.0.0.0/")] == [None] * 5
