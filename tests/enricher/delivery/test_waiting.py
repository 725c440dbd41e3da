# SPDX-License-Identifier: Apache-2.0
"""When a chunk waits, and how often."""

import asyncio
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from enricher.delivery.incoming.waiting import LateSenders
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver, WindowResolver
from enricher.join.join import PART, ResolvedChunk, join, resolve
from enricher.kube.cluster import ClusterView
from enricher.metrics import EnricherMetrics, GivenOut
from schemas.raw import RawChunk
from tests.support.enricher.build import END, START, chunk, node, pod, row

LATE, PEER = "10.9.8.5", "10.9.8.1"


class Waiter:
    """Patience with a clock of the test's own."""

    def __init__(self, *, live: bool = True) -> None:
        self.now = END + 100
        self.index = Index()
        self.index.apply(node("node-a1", PEER))
        self.cluster = ClusterView(self.index, live=live, clock=lambda: self.now)
        self.registry = CollectorRegistry()
        self.metrics = EnricherMetrics(self.registry, self.index)
        self.resolver = Resolver(self.index, CidrMap([]))
        self.patience = LateSenders(self.cluster, self.resolver, self.metrics, 2.0)

    def resolve(self, raw: RawChunk) -> ResolvedChunk:
        return resolve(raw, self.resolver)

    def chunk(self, **times: Any) -> RawChunk:
        return chunk([row(LATE, PEER)], **times)

    def late(self, raw: RawChunk) -> set[str]:
        return self.patience.worth_waiting_for(raw, self.resolve(raw))

    async def wait(self, raw: RawChunk) -> str:
        """Wait as a worker does; return the sender's kind."""
        late = self.late(raw)
        ends = await self.patience.wait(raw, late) if late else self.resolve(raw)
        return ends.addresses[raw.addresses.index(LATE)].kind

    def outcome(self, outcome: str) -> float:
        return self.registry.get_sample_value("zonemeter_enricher_index_waits_total", {"outcome": outcome}) or 0.0


def test_it_waits_until_the_pod_is_known() -> None:
    async def run() -> None:
        waiter = Waiter()
        task = asyncio.create_task(waiter.wait(waiter.chunk()))
        await asyncio.sleep(0)
        waiter.cluster.load([pod("other-1", "10.9.8.6", "node-a1")])
        await asyncio.sleep(0)
        assert not task.done()
        waiter.cluster.load([pod("api-1", LATE, "node-a1", from_ms=START)])
        assert await task == "pod"
        assert (waiter.outcome("known"), waiter.outcome("late")) == (1, 0)

    asyncio.run(run())


def test_it_waits_in_vain_once_unless_the_address_was_a_pods_since() -> None:
    async def run() -> None:
        waiter = Waiter()
        task = asyncio.create_task(waiter.wait(waiter.chunk()))
        await asyncio.sleep(0)
        waiter.now = END + 2000
        waiter.cluster.load([pod("other-1", "10.9.8.6", "node-a1")])
        assert await task == "unknown"
        assert waiter.outcome("late") == 1
        times = {"start_ms": END, "end_ms": END + 10_000}
        waiter.now = END + 10_100
        assert waiter.late(waiter.chunk(**times)) == set()
        waiter.cluster.load([pod("api-1", LATE, "node-a1", from_ms=END + 3000, to_ms=END + 5000)])
        later = {"start_ms": END + 10_000, "end_ms": END + 20_000}
        waiter.now = END + 20_100
        assert waiter.late(waiter.chunk(**later)) == {LATE}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("live", "now", "waits"),
    [
        pytest.param(True, END + 1999, True, id="in time"),
        pytest.param(True, END + 2000, False, id="too late"),
        pytest.param(True, END + 3_600_000, False, id="an hour of lag"),
        pytest.param(False, END, False, id="nobody would tell"),
    ],
)
def test_it_waits_only_where_that_may_help(live: bool, now: int, waits: bool) -> None:
    waiter = Waiter(live=live)
    waiter.now = now
    assert bool(waiter.late(waiter.chunk())) == waits


def test_freshness_is_shown_by_whether_a_chunk_waited() -> None:
    waiter = Waiter()

    def given_out(end_ms: int, *, waited: bool) -> GivenOut:
        raw = waiter.chunk(start_ms=end_ms - 10_000, end_ms=end_ms)
        return GivenOut(raw, join(raw, waiter.resolve(raw), 0, 0), waited)

    chunks = [given_out(END, waited=False), given_out(END - 1500, waited=True), given_out(END + 5000, waited=False)]
    waiter.metrics.given_out(chunks, END + 400)

    def below(bound: str, waited: str) -> float | None:
        return waiter.registry.get_sample_value(
            "zonemeter_enricher_freshness_seconds_bucket", {"le": bound, "waited": waited}
        )

    assert [below(bound, "no") for bound in ("0.1", "0.25", "0.5")] == [1, 1, 2]
    assert [below(bound, "yes") for bound in ("1.5", "2.0")] == [0, 1]
    assert waiter.registry.get_sample_value("zonemeter_enricher_chunks_total", {"result": "enriched"}) == len(chunks)
    taken = sum(each.joined.taken.bytes for each in chunks)
    assert waiter.registry.get_sample_value("zonemeter_enricher_raw_bytes_total") == taken


def made_up(count: int) -> list[str]:
    """Return so many addresses that nobody knows."""
    return [f"203.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(
            msgspec.structs.replace(chunk([row(LATE, PEER)]), addresses=[LATE, PEER, *made_up(60_000)]), id="one row"
        ),
        pytest.param(msgspec.structs.replace(chunk([row(LATE, PEER)]), own=[0] * 60_000), id="own, the same"),
        pytest.param(
            msgspec.structs.replace(
                chunk([row(LATE, PEER)]), addresses=[LATE, PEER, *made_up(9_000)], own=[*range(9_000)]
            ),
            id="own, all",
        ),
        pytest.param(chunk([row(address, PEER) for address in made_up(9_000)]), id="senders"),
    ],
)
def test_a_record_of_many_addresses_gives_the_loop_turns(raw: RawChunk, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]

    def counting(name: str) -> None:
        plain = getattr(WindowResolver, name)

        def counted(*arguments: Any) -> Any:
            looked[-1] += 1
            return plain(*arguments)

        monkeypatch.setattr(WindowResolver, name, counted)

    for name in ("_look_up", "own", "sent_here"):
        counting(name)

    async def beside() -> None:
        while True:
            looked.append(0)
            await asyncio.sleep(0)

    async def run() -> ResolvedChunk:
        other = asyncio.create_task(beside())
        try:
            return await Waiter().patience.resolve(raw)
        finally:
            other.cancel()

    ends = asyncio.run(run())
    assert sum(looked) >= len(raw.addresses)
    assert max(looked) <= 3 * PART
    same = [(end.head, end.tail) for end in ends.addresses] == [
        (end.head, end.tail) for end in Waiter().resolve(raw).addresses
    ]
    assert same
