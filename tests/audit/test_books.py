# SPDX-License-Identifier: Apache-2.0
"""An audit that cannot find a fault is worth nothing: each test but the first puts one in."""

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from audit.books import Reconciler, conclude
from audit.intervals import MAX_INTERVALS, Intervals
from audit.result import Audit, ClockStep, Gone, Shortfall, Sums
from schemas.ids import Origin, chunk_id
from schemas.ledger import LedgerRecord
from schemas.topology import TopologyState
from tests.support.builders import END_MS, ORIGIN, amount, collector_entry, enricher_entry, sink_entry
from tests.support.reconciled import reconcile

LATER = END_MS + 3_600_000
OTHER = Origin(ORIGIN.cluster, "node-b1", "bbbbbbbbbbbb")


def whole(windows: int = 3, size: int = 1_000) -> list[LedgerRecord]:
    sizes = dict.fromkeys(range(windows), size)
    return [
        *(collector_entry(sequence, size) for sequence in sizes),
        *(enricher_entry(sequence, size) for sequence in sizes),
        sink_entry("metrics", 1, sizes),
        sink_entry("flowlog", 1, sizes),
    ]


def audit(records: list[LedgerRecord], settled_before_ms: int = LATER, waiting: Collection[Shortfall] = ()) -> Audit:
    return reconcile(records, settled_before_ms, waiting=waiting)


def test_whole_books_close() -> None:
    books = audit(whole())
    assert books.closes
    assert books.ratio == 1.0
    assert books.windows == 3
    assert books.seen == amount(3_000, rows=3)
    assert {hop: total.taken.bytes for hop, total in books.hops.items()} == dict.fromkeys(
        ("collector", "enricher", "metrics", "flowlog"), 3_000
    )
    assert not books.gaps


def test_beyond_the_bound_what_fits_is_added_up_and_not_given_up() -> None:
    """Ten windows were left open at the last look, some of them only because they were recent; four more make 14."""
    audit = Audit()
    books = Reconciler(audit.of)
    hour = 3_600_000
    for record in (*whole(6), *(collector_entry(sequence, 1_000) for sequence in range(6, 10))):
        books.take(record)
    assert not books.bound(hour, 12)
    for sequence in range(1_000, 1_004):
        books.take(collector_entry(sequence, 1_000))
    assert not books.bound(hour, 12)
    assert conclude(books, audit, LATER + 10 * hour).seen.bytes == 14_000


def test_nothing_seen_does_not_close() -> None:
    assert not audit([]).closes
    assert audit([]).ratio == 0.0


def test_what_is_lost_for_a_reason_or_put_aside_is_accounted_for() -> None:
    records = whole(1)
    records[0] = collector_entry(0, 1_000, lost={"map_full": amount(300)}, aside={"loopback": amount(200)})
    books = audit(records)
    assert books.closes
    assert books.seen.bytes == 1_500
    assert books.hops["collector"].lost["map_full"].bytes == 300


@pytest.mark.parametrize(
    ("drop", "hop", "window"),
    [
        pytest.param(("enricher", 1), "enricher", "1/1", id="a chunk that nobody enriched"),
        pytest.param(("metrics", 1), "metrics", "1/1/0", id="a chunk that metrics did not take"),
        pytest.param(("flowlog", 1), "flowlog", "1/1/0", id="a chunk that the flow log did not take"),
    ],
)
def test_what_is_missing_is_named(drop: tuple[str, int], hop: str, window: str) -> None:
    records = [
        record for record in whole() if not (record.hop == drop[0] == "enricher" and record.id.endswith("1/1/0"))
    ]
    if drop[0] != "enricher":
        records = [record for record in records if record.hop != drop[0]]
        records.append(sink_entry(drop[0], 1, {0: 1_000, 2: 1_000}))
    books = audit(records)
    assert not books.closes
    assert books.ratio < 1
    assert [(short.hop, short.bytes) for short in books.shortfalls] == [(hop, 1_000)]
    assert books.shortfalls[0].window.endswith(window)


def test_a_single_missing_byte_in_a_terabyte_shows() -> None:
    records = whole(1, size=10**12)
    records[-1] = sink_entry("flowlog", 1, {0: 10**12 - 1})
    books = audit(records)
    assert not books.closes
    assert f"{books.ratio:.6f}" == "0.999999"


def test_what_was_taken_twice_is_named() -> None:
    books = audit([*whole(), sink_entry("flowlog", 2, {1: 1_000})])
    assert not books.closes
    assert [(short.hop, short.bytes, short.why) for short in books.shortfalls] == [
        ("flowlog", -1_000, "taken more than once")
    ]


def test_an_entry_that_does_not_add_up_is_named() -> None:
    records = whole()
    records[4] = enricher_entry(1, 1_000, given=amount(900))
    books = audit(records)
    assert ("enricher", 100, "its own entry does not add up") in [(s.hop, s.bytes, s.why) for s in books.shortfalls]


def test_a_young_window_that_has_not_arrived_is_in_flight_and_in_no_sum() -> None:
    records = [*whole(2), collector_entry(2, 5_000)]
    books = audit(records, settled_before_ms=END_MS + 20_000)
    assert books.closes
    assert (books.windows, books.in_flight) == (2, 1)
    assert books.seen.bytes == 2_000
    assert not audit(records).closes


def test_a_repeat_does_not_hide_the_chunk_it_repeats() -> None:
    repeat = enricher_entry(1, 1_000, given=amount(0, rows=0), aside={"repeat": amount(1_000)})
    books = audit(
        [
            *whole(),
            LedgerRecord(**{f: getattr(repeat, f) for f in repeat.__struct_fields__} | {"id": f"{repeat.id}@77"}),
        ]
    )
    assert books.closes


def test_missing_windows_and_unmeasured_time_are_named() -> None:
    reborn = Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa")
    records = [
        *(collector_entry(sequence, 100) for sequence in (0, 3)),
        collector_entry(6, 100, origin=reborn),
    ]
    books = audit(records, settled_before_ms=0)
    assert [(gap.node, gap.length_ms) for gap in books.gaps] == [("node-a1", 20_000), ("node-a1", 20_000)]
    assert books.gaps[0].why == "sequence 1 to 2 missing (boot 5be6c2f0a91d, generation 1)"
    assert "new boot" in books.gaps[1].why


def moved(step_ms: int, record: LedgerRecord, **more: Any) -> LedgerRecord:
    return replace(record, start_ms=record.start_ms + step_ms, end_ms=record.end_ms + step_ms, **more)


@pytest.mark.parametrize("ahead_ms", [3_600_000, 30_000])
def test_of_boots_whose_clocks_overlap_the_ledger_says_the_order_and_nobody_how_long_it_took(ahead_ms: int) -> None:
    reborn = Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa")
    old = [moved(ahead_ms, collector_entry(sequence, 100)) for sequence in (1, 2)]
    books = audit([*old, *(collector_entry(sequence, 100, reborn) for sequence in (4, 5, 7))], settled_before_ms=0)
    boot, missing = books.gaps
    assert (boot.from_ms, boot.to_ms, boot.length_ms) == (old[1].end_ms, None, None)
    assert boot.why.startswith("a new boot, aaaaaaaaaaaa")
    assert missing.length_ms == 10_000
    assert (books.unmeasured_ms, books.unmeasured_at_least) == (10_000, True)


def test_boots_in_several_partitions_are_in_the_order_of_their_clocks() -> None:
    reborn = Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa")
    books = audit([collector_entry(6, 100, reborn, partition=5), collector_entry(1, 100)], settled_before_ms=0)
    (gap,) = books.gaps
    assert (gap.length_ms, books.unmeasured_at_least) == (40_000, False)
    assert gap.why.startswith("a new boot, aaaaaaaaaaaa")


def test_gaps_are_all_in_the_sum_and_what_finds_no_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.boots.MAX_LISTED", 5)  # of one boot
    nodes = [Origin("lab", f"node-{number}", "0" * 12) for number in range(4)]

    def of(windows: int) -> Audit:
        return audit([collector_entry(2 * n, 0, node, chunks=0) for node in nodes for n in range(windows)])

    books = of(6)
    assert (len(books.gaps), books.unmeasured_ms, books.unmeasured_at_least) == (20, 200_000, False)
    books = of(7)
    assert (books.unmeasured_ms, books.unmeasured_at_least) == (200_000, True)
    monkeypatch.setattr("audit.boots.MAX_TOLD", 10)
    books = of(6)
    assert (books.unmeasured_ms, books.unmeasured_at_least) == (100_000, True)


def test_windows_from_before_the_ledger_begins_are_named_if_all_of_it_was_read() -> None:
    records = [collector_entry(20, 100), collector_entry(19, 100), collector_entry(1, 100, partition=3, origin=OTHER)]
    books = reconcile(records, 0, whole={0, 3})
    assert books.gone == [Gone(ORIGIN.node, records[1].start_ms, ORIGIN, 1, 18)]
    assert not books.gaps
    assert not reconcile(records, 0).gone


@pytest.mark.parametrize(("outside", "gone"), [([18], []), ([17], []), ([21], [18]), ([], [18])])
def test_a_ledger_that_goes_back_further_than_the_range_lacks_nothing_before_it(
    outside: list[int], gone: list[int]
) -> None:
    start_ms = collector_entry(19, 100).start_ms
    total = Audit()
    books = Reconciler(total.of, wanted=lambda _, at_ms: start_ms <= at_ms <= start_ms + 10_000)
    # What is enriched of a window whose own entry is gone says nothing about how far the ledger goes back.
    for record in (enricher_entry(18, 100), *(collector_entry(sequence, 100) for sequence in (*outside, 19, 20))):
        books.take(record)
    assert [each.last for each in conclude(books, total, 0, whole={0}).gone] == gone


@pytest.mark.parametrize("step_ms", [7_200_000, -7_200_000])
def test_a_clock_that_was_set_is_named_and_is_no_unmeasured_time(step_ms: int) -> None:
    def entry(sequence: int, **more: Any) -> LedgerRecord:
        of = collector_entry(sequence, 100)
        moved = step_ms if sequence >= 2 else 0
        return replace(of, start_ms=of.start_ms + moved, end_ms=of.end_ms + moved, **more)

    reborn = replace(collector_entry(6, 100, Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa")))
    reborn = replace(reborn, start_ms=reborn.start_ms + step_ms, end_ms=reborn.end_ms + step_ms)
    books = audit([entry(0), entry(1), entry(2, clock_step_ms=step_ms), entry(4), reborn], settled_before_ms=0)
    assert books.clock_steps == [ClockStep("node-a1", END_MS + 20_000 + step_ms, step_ms)]
    assert [(gap.from_ms - END_MS - step_ms, gap.length_ms) for gap in books.gaps] == [
        (20_000, 10_000),
        (40_000, 10_000),
    ]
    assert books.interleaved == {}


def test_nodes_of_the_cluster_that_nobody_metered_show() -> None:
    nodes = [TopologyState(kind="node", uid=n, resource_version="1", name=n, from_ms=0) for n in ("node-a1", "node-b1")]
    books = reconcile(whole(), LATER, nodes)
    assert books.nodes_in_cluster == {"node-a1", "node-b1"}
    assert books.nodes_metered == {"node-a1"}


def test_a_sink_that_never_reported_is_absent_not_short() -> None:
    books = audit([record for record in whole() if record.hop != "metrics"])
    assert books.closes
    assert books.absent == ["metrics"]


def test_a_late_window_is_in_no_sum_if_all_of_it_was_seen_to_wait_and_unaccounted_if_not() -> None:
    """The last window of a node that died may be lost or on its way: the ledger says the same of both."""
    records = [*whole(2), collector_entry(2, 5_000), enricher_entry(2, 5_000)]
    records = [*records, collector_entry(3, 700)]
    lost = audit(records)
    assert {short.hop for short in lost.shortfalls} == {"enricher", "metrics", "flowlog"}
    assert (lost.closes, lost.late_windows) == (False, 0)

    late = audit(records, waiting=set(lost.shortfalls))
    assert (late.closes, late.ratio, late.windows, late.late_windows) == (True, 1.0, 2, 2)
    assert late.late == {"enricher": 700, "metrics": 5_000, "flowlog": 5_000}
    assert (late.seen.bytes, late.shortfalls, late.unaccounted) == (2_000, [], {})

    one = [short for short in lost.shortfalls if short.hop != "flowlog"]
    assert audit(records, waiting=one).unaccounted == {"metrics": 5_000, "flowlog": 5_000}
    passed_over = [r for r in whole(2) if not (r.hop == "enricher" and r.id.endswith("1/0/0"))]
    (short,) = audit(passed_over).shortfalls
    assert audit(passed_over, waiting=[short]).shortfalls == [short]


def twin(sequence: int, size: int) -> LedgerRecord:
    return collector_entry(sequence, size, origin=Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa"))


def test_what_is_passed_over_is_open_at_once_and_what_is_behind_is_late() -> None:
    behind = [r for r in whole() if not (r.hop == "enricher" and r.id.endswith("1/2/0"))]
    (short,) = audit(behind).shortfalls[:1]
    assert (short.hop, short.late) == ("enricher", True)
    assert "nor anything later of this node" in short.why
    skipped = [r for r in whole() if not (r.hop == "enricher" and r.id.endswith("1/1/0"))]
    (short, *_) = audit(skipped, settled_before_ms=0).shortfalls
    assert (short.hop, short.late) == ("enricher", False)
    assert "passed over" in short.why


def test_after_a_number_ahead_what_is_under_way_seems_passed_over_until_it_arrives() -> None:
    """Somebody made that number up, and the enricher took it: no loss is hidden, and some is seen that is none."""
    forged = enricher_entry(1, 10, id=chunk_id(ORIGIN, 300_000_000, 0, 0))
    under_way = [*whole(1), forged, collector_entry(1, 1_000)]
    (short,) = (each for each in audit(under_way, settled_before_ms=0).shortfalls if each.bytes > 0)
    assert (short.hop, short.bytes, short.late) == ("enricher", 1_000, False)
    arrived = [*under_way, *whole(2)[2:]]
    assert not [each for each in audit(arrived, settled_before_ms=0).shortfalls if each.hop == "enricher"]


def test_a_window_that_was_enriched_and_that_no_collector_closed_is_named() -> None:
    records = [r for r in whole() if not (r.hop == "collector" and r.id.endswith("1/1"))]
    books = audit(records)
    assert [(s.hop, s.bytes) for s in books.shortfalls] == [("collector", -1_000)]
    assert "no entry of its collector" in books.shortfalls[0].why


def test_two_boots_side_by_side_are_named_and_a_reboot_is_none() -> None:
    reboot = [collector_entry(0, 100), collector_entry(1, 100), twin(3, 100), twin(4, 100)]
    assert audit(reboot).interleaved == {}
    late_spool = [collector_entry(0, 100), twin(3, 100), collector_entry(1, 100), twin(4, 100)]
    assert audit(late_spool).interleaved == {}
    twins = [collector_entry(0, 100), twin(1, 100), collector_entry(2, 100), twin(3, 100)]
    assert audit(twins).interleaved == {ORIGIN.node: ["5be6c2f0a91d", "aaaaaaaaaaaa"]}


def test_a_repeat_in_the_raw_topic_is_named() -> None:
    fields: dict[str, Any] = {
        "id": "lab/node-a1/5be6c2f0a91d/1/1/0@77",
        "given": amount(0, rows=0),
        "aside": {"repeat": amount(1_000)},
    }
    books = audit([*whole(), enricher_entry(1, 1_000, **fields)])
    assert books.closes
    (repeat,) = books.repeated
    assert (repeat.chunk[-5:], repeat.offset, repeat.amount.bytes) == ("1/1/0", 77, 1_000)


class Long:
    """A run of many windows, in the order in which they come to be."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.books = Reconciler(lambda origin, start_ms: self.sums)

    def run(self, windows: range, sinks: tuple[str, ...] = ("metrics", "flowlog")) -> None:
        for sequence in windows:
            self.books.take(collector_entry(sequence, 100))
            self.books.take(enricher_entry(sequence, 100))
            for sink in sinks:
                self.books.take(sink_entry(sink, sequence, {sequence: 100}))
            self.books.settle(60_000)


def test_what_fits_is_forgotten_however_long_the_run() -> None:
    long = Long()
    long.run(range(2_000))
    assert len(long.books) <= 7
    assert long.sums.closes
    assert long.sums.windows == 2_000 - len(long.books)
    assert {hop: total.given.bytes for hop, total in long.sums.hops.items()} == dict.fromkeys(
        ("collector", "enricher", "metrics", "flowlog"), long.sums.windows * 100
    )


class Counted(Reconciler):
    """Books that note how many windows were open whenever they were asked to look at all."""

    looked: list[int]

    def settle(self, margin_ms: int | None = None) -> None:
        self.looked.append(len(self))
        super().settle(margin_ms)


def test_trimming_costs_little_where_nothing_fits() -> None:
    books = Counted(lambda origin, start_ms: Sums())
    books.looked = []
    books.take(sink_entry("flowlog", 1, {0: 100}))
    for sequence in range(2_000):
        books.take(collector_entry(sequence, 100))
        books.take(enricher_entry(sequence, 100))
        books.trim(60_000, 100)
    assert books.looked[:2] == [101, 151]
    assert len(books.looked) < 10


def test_an_entry_published_again_changes_nothing_also_after_its_window_is_forgotten() -> None:
    long = Long()
    long.run(range(100))
    for record in (collector_entry(3, 100), enricher_entry(3, 100), sink_entry("flowlog", 99, {3: 100})):
        long.books.take(record)
    assert long.sums.closes
    assert len(long.books) <= 7


def test_what_a_sink_takes_again_is_named_also_after_its_window_is_forgotten() -> None:
    long = Long()
    long.run(range(100))
    long.books.take(sink_entry("flowlog", 1_000, {3: 100}))
    assert not long.sums.closes
    assert long.sums.unaccounted == {"flowlog": 100}


def test_a_sink_that_is_new_is_not_held_to_what_was_closed_before() -> None:
    long = Long()
    long.run(range(50), sinks=("metrics",))
    long.books.take(sink_entry("flowlog", 1, dict.fromkeys(range(30), 100)))
    assert long.sums.closes
    long.run(range(50, 100))
    assert long.sums.closes


def test_a_second_flow_log_with_a_group_of_its_own_takes_everything_once_more() -> None:
    sizes = dict.fromkeys(range(3), 1_000)
    second = replace(sink_entry("flowlog", 1, sizes), id="archive/0-1")
    own = replace(sink_entry("flowlog", 1, sizes), id="zonemeter.flowlog/0-1")
    books = audit([record for record in whole() if record.hop != "flowlog"] + [own, second])
    assert books.closes
    assert books.hops["flowlog archive"].taken == books.hops["flowlog"].taken
    short = replace(sink_entry("flowlog", 1, {0: 1_000, 2: 1_000}), id="archive/0-1")
    books = audit([*whole(), short])
    assert [(each.hop, each.bytes) for each in books.shortfalls] == [("flowlog archive", 1_000)]


def test_numbers_at_random_do_not_fill_the_memory() -> None:
    closed = Intervals()
    for number in range(0, 40_000, 3):
        closed.add(1, number)
    assert len(closed) <= MAX_INTERVALS
    assert closed.holds(1, 39_999)
    assert not closed.holds(1, 39_998)


@given(st.permutations(range(200)))
def test_intervals_hold_what_was_put_in(numbers: list[int]) -> None:
    closed = Intervals()
    for count, number in enumerate(numbers, 1):
        closed.add(1, number)
        assert closed.holds(1, number)
        if count == 100:
            assert {n for n in range(200) if closed.holds(1, n)} == set(numbers[:100])
    assert len(closed) == 1
    assert closed.last == (1, 199)


@pytest.mark.parametrize(
    ("later", "hop"),
    [
        pytest.param(collector_entry(1, 0), "collector", id="a window of nothing"),
        pytest.param(collector_entry(1, 1_000, chunks=0), "collector", id="a window of no chunks"),
        pytest.param(enricher_entry(1, 0), "enricher", id="a chunk of nothing"),
        pytest.param(enricher_entry(1, 1_000, given=amount(0, 0), lost={"x": amount(1_000)}), "enricher", id="lost"),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
def test_of_two_entries_under_one_key_the_first_counts_and_the_other_is_named(
    later: LedgerRecord, hop: str, closed: bool
) -> None:
    long = Long()
    long.run(range(100 if closed else 4))
    long.books.take(later)
    long.run(range(100, 200))
    (told,) = long.books.contradicted
    assert (told.hop, told.id) == (hop, later.id)
    assert told.later == (later.taken, later.given)
    assert long.sums.contradictions == 1
    assert long.sums.closes


def test_a_contradiction_is_named_also_where_its_life_was_forgotten() -> None:
    long = Long()
    long.run(range(4))
    long.books.settle()
    assert not list(long.books.expire(END_MS + 3_600_000))
    later = END_MS + 7_200_000
    long.books.take(collector_entry(2, 50, start_ms=later, end_ms=later + 10_000))
    assert [told.id for told in long.books.contradicted] == [collector_entry(2, 50).id]


def test_a_contradiction_cannot_hide_what_is_missing() -> None:
    """Somebody made true windows into repeats, and says afterwards that there was nothing in them."""
    taken = [record for record in whole() if not (record.hop == "enricher" and record.id.endswith("1/1/0"))]
    books = audit([*taken, collector_entry(1, 0, chunks=0)])
    assert not books.closes
    assert books.is_forged
    assert [(short.hop, short.bytes) for short in books.shortfalls if short.hop == "enricher"] == [("enricher", 1_000)]


def test_an_entry_made_anew_after_a_crash_is_no_contradiction() -> None:
    books = audit([*whole(), *whole()[:6], enricher_entry(1, 1_000, senders={"node-b1": amount(5)})])
    assert not books.contradicted
    assert not books.is_forged


def test_a_repeat_that_did_not_say_so_is_told_apart() -> None:
    fields: dict[str, Any] = {"given": amount(0, rows=0), "aside": {"unannounced_repeat": amount(1_000)}}
    entry = replace(enricher_entry(1, 1_000, **fields), id="lab/node-a1/5be6c2f0a91d/1/1/0@77")
    books = audit([*whole(), entry])
    assert books.closes
    assert (books.repeats.bytes, books.unannounced.bytes) == (1_000, 1_000)
    assert [each.announced for each in books.repeated] == [False]


def test_what_a_node_sent_after_its_last_window_is_remembered_by_its_name() -> None:
    def received(sequence: int) -> LedgerRecord:
        return enricher_entry(sequence, 100, senders={OTHER.node: amount(5), "never": amount(7)})

    books = audit(
        [collector_entry(0, 100, OTHER), *(e for n in (0, 1, 2) for e in (collector_entry(n, 100), received(n)))]
    )
    # Its window ended when window 1 began.
    assert books.senders == {"never": amount(21, rows=3), OTHER.node: amount(5)}
    assert books.unmetered_senders().keys() == {"never"}
