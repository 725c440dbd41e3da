# SPDX-License-Identifier: Apache-2.0
"""Taking flows: repeats are skipped, rubbish is refused with a reason, the books always balance."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from schemas.amount import Amount
from schemas.flow import Endpoint
from schemas.ids import Origin, chunk_id
from schemas.ledger import encode_ledger
from sinks.intake import MARK_IDLE_MS, MARK_KEPT_MS, FlowMark, Intake, Lane
from sinks.sink import Cut
from sinks.tallies import Tallies
from tests.support.builders import total
from tests.support.sinks.flows import BOOT, END_MS, START_MS, encoded, flow, flow_id, records, window

NOW_MS = END_MS + 1_000
ORIGIN = Origin("lab", "node-a1", BOOT)


def intake() -> Intake[Endpoint]:
    return Intake(lambda end: end)


def ids(values: list[str]) -> list[bytes]:
    return [encoded(flow(id=each)) for each in values]


def test_entries_of_one_lane_never_share_a_name() -> None:
    """Two that say different things under one name are a contradiction, to the audit a forger's."""
    lane = Lane(0)
    batch = intake().take(lane, records([*ids([flow_id(1, 0)]), b"rubbish"]), NOW_MS)
    lane.refuse(batch.refused)
    names = [entry.id for cut in (Cut.of([lane], "flowlog", "g", NOW_MS, None),) for entry in cut.ledger]
    # Its dead letter is through, and nothing more has come.
    lane.settle()
    names += [entry.id for entry in Cut.of([lane], "flowlog", "g", NOW_MS, None).ledger]
    assert names == ["g/0-2", "g/2-2"]


@pytest.mark.parametrize(
    ("mark", "given_ids", "taken"),
    [
        pytest.param(None, [flow_id(1, 0), flow_id(1, 1)], [flow_id(1, 0), flow_id(1, 1)], id="first"),
        pytest.param(None, [flow_id(1, 1), flow_id(1, 1)], [flow_id(1, 1)], id="the-same-twice"),
        pytest.param((1, 8, 0, 9), [flow_id(9, 0), flow_id(10, 0)], [flow_id(9, 0), flow_id(10, 0)], id="9-before-10"),
        pytest.param((1, 10, 0, 9), [flow_id(9, 99)], [], id="older-window"),
        pytest.param((1, 10, 0, 9), [flow_id(10, 9), flow_id(10, 10)], [flow_id(10, 10)], id="rest-of-a-chunk"),
        pytest.param((1, 10, 1, 9), [flow_id(10, 99, chunk=0)], [], id="older-chunk"),
        pytest.param((1, 10, 1, 9), [flow_id(1, 0, generation=2)], [flow_id(1, 0, generation=2)], id="new-generation"),
        pytest.param(
            (1, 10, 1, 9),
            [flow_id(1, 0, generation=86_400)],
            [flow_id(1, 0, generation=86_400)],
            id="new-generation-a-day-later",
        ),
        pytest.param((1, 10, 1, 9), [flow_id(1, 0, "node-b1")], [flow_id(1, 0, "node-b1")], id="other-node"),
        pytest.param(
            None,
            [flow_id(1, 5), flow_id(1, 0, "node-b1"), flow_id(1, 5), flow_id(1, 6)],
            [flow_id(1, 5), flow_id(1, 0, "node-b1"), flow_id(1, 6)],
            id="interleaved",
        ),
    ],
)
def test_takes_what_is_greater_than_the_mark(
    mark: tuple[int, int, int, int] | None, given_ids: list[str], taken: list[str]
) -> None:
    lane = Lane(0, 0, {} if mark is None else {ORIGIN: FlowMark(*mark, end_ms=END_MS)})
    batch = intake().take(lane, records(ids(given_ids)), NOW_MS)
    assert [flow.id for flow, *_ in batch.rows] == taken
    assert batch.repeats == len(given_ids) - len(taken)
    [record] = lane.books.records("metrics", "1", 0, NOW_MS)
    assert record.balance() is None
    assert total(record.parts).rows == len(taken)
    assert record.taken.rows == len(given_ids)


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 3), st.sampled_from([0, 1, 7])), max_size=20))
def test_of_one_attribution_all_is_taken_and_of_others_nothing(given_flows: list[tuple[int, int, int]]) -> None:
    """However they are mixed: the flows of one version come out as if the others were not there."""
    values = [
        encoded(flow(id=flow_id(sequence, row), attribution_version=version or UNSET))
        for sequence, row, version in given_flows
    ]
    for taken in (0, 1, 7):
        alone, mixed = Lane(0), Lane(0)
        own = [value for value, (*_, version) in zip(values, given_flows, strict=True) if version == taken]
        source = Intake(lambda end: end, attribution_version=taken)
        expected, found = source.take(alone, records(own), NOW_MS), source.take(mixed, records(values), NOW_MS)
        assert found.rows == expected.rows
        assert (found.repeats, mixed.marks) == (expected.repeats, alone.marks)
        assert [each.reason for each in found.refused] == ["unsupported_version"] * (len(values) - len(own))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(None, "not_json", id="tombstone"),
        pytest.param(b"", "not_json", id="empty"),
        pytest.param(b"\xff\xfe", "not_json", id="binary"),
        pytest.param(b'{"a":' * 5_000, "not_json", id="nested"),
        pytest.param(b"{}", "schema_mismatch", id="fields-missing"),
        pytest.param(b" " * 70_000, "too_large", id="too-large"),
        pytest.param(encoded(flow()).replace(b"lab/", b"", 1), "schema_mismatch", id="id-short"),
        pytest.param(encoded(flow()).replace(b'/0"', b'/-1"', 1), "schema_mismatch", id="row-negative"),
        pytest.param(
            encoded(flow()).replace(b'/0"', b"/" + b"9" * 5000 + b'"', 1), "schema_mismatch", id="row-endless"
        ),
        pytest.param(encoded(flow()).replace(b'"kind":"pod"', b'"kind":"cat"', 1), "schema_mismatch", id="source"),
        pytest.param(encoded(flow()).replace(b'"node":"node-a1"', b'"node":1', 1), "schema_mismatch", id="observer"),
        pytest.param(encoded(flow(start_ms=END_MS, end_ms=START_MS)), "inconsistent", id="ends-before-it-starts"),
        pytest.param(encoded(flow(end_ms=2**53 - 1)), "implausible", id="year-287396"),
        pytest.param(encoded(flow()).replace(b'"bytes":1000', b'"bytes":1e300', 1), "schema_mismatch", id="bytes-huge"),
        pytest.param(
            encoded(flow()).replace(b'"partition":3', b'"partition":2147483648', 1), "schema_mismatch", id="partition"
        ),
        pytest.param(encoded(flow(attribution_version=1)), "unsupported_version", id="joined-again"),
        *(
            pytest.param(
                encoded(flow()).replace(b'{"id"', b'{"attribution_version":' + version + b',"id"', 1),
                "schema_mismatch",
                id=f"attribution-{version.decode()}",
            )
            for version in (b"0", b"-1", b"2147483648", b"null", b'"1"', b"1.5")
        ),
    ],
)
def test_refuses_and_goes_on(value: bytes | None, reason: str) -> None:
    lane = Lane(3, 10)
    good = encoded(flow())
    batch = intake().take(lane, records([value, good], offset=10), NOW_MS)
    assert [(refused.reason, refused.record.offset) for refused in batch.refused] == [(reason, 10)]
    assert [flow.id for flow, *_ in batch.rows] == [flow_id()]
    assert lane.position == 12
    lane.refuse(batch.refused)
    assert (lane.durable_position, lane.books.refused) == (10, {})
    lane.settle()
    assert lane.durable_position == 12
    [record] = lane.books.records("flowlog", "g/10", 3, NOW_MS)
    assert record.lost == {reason: Amount(0, 0, 1)}
    assert record.taken == Amount(1000, 2, 2)
    assert record.balance() is None


@given(st.binary(max_size=200) | st.text(max_size=50).map(msgspec.json.encode))
def test_no_bytes_get_further_than_a_refusal(rubbish: bytes) -> None:
    batch = intake().take(Lane(0, 0), records([rubbish]), NOW_MS)
    assert len(batch.refused) == 1


@pytest.mark.parametrize(
    ("position", "offsets", "missed"),
    [
        pytest.param(None, [7, 8], 0, id="first-read"),
        pytest.param(7, [7, 8], 0, id="in-order"),
        pytest.param(5, [7, 8], 2, id="retention-was-faster"),
        pytest.param(5, [5, 8], 2, id="hole-inside"),
        pytest.param(900, [0, 1], 0, id="topic-made-anew"),
    ],
)
def test_counts_offsets_that_were_deleted_before_they_were_read(
    position: int | None, offsets: list[int], missed: int
) -> None:
    lane = Lane(0, position)
    stored = records(ids([flow_id(1, row) for row in range(len(offsets))]))
    for record, offset in zip(stored, offsets, strict=True):
        record.offset = offset
    assert intake().take(lane, stored, NOW_MS).missed == missed
    assert lane.position == offsets[-1] + 1


def test_topic_made_anew_brings_nothing_twice() -> None:
    lane, source = Lane(0), intake()
    values = [encoded(each) for each in window(1, 5)]
    source.take(lane, records(values, offset=700), NOW_MS)
    again = source.take(lane, records(values + [encoded(each) for each in window(2, 1)], offset=0), NOW_MS)
    assert [flow.id for flow, *_ in again.rows] == [flow_id(2, 0)]


def test_forgets_end_points_beyond_the_bound_and_still_takes() -> None:
    source = Intake(lambda end: end.address, max_known=3)
    values = [
        encoded(flow(id=flow_id(1, row), source=msgspec.structs.replace(flow().source, address=f"10.0.0.{row}")))
        for row in range(20)
    ]
    batch = source.take(Lane(0), records(values), NOW_MS)
    assert [source for _, source, *_ in batch.rows] == [f"10.0.0.{row}" for row in range(20)]


def test_marks_of_lives_long_over_are_forgotten() -> None:
    lane = Lane(0)
    source, later = intake(), MARK_KEPT_MS // 10_000 + 1
    source.take(lane, records(ids([flow_id()])), NOW_MS)
    assert lane.forget_old_marks(NOW_MS + MARK_KEPT_MS) == []
    other_node = at(1, later, id=flow_id(1, 0, "node-b1"))
    source.take(lane, records([other_node], offset=1), NOW_MS + 10_000 * later)
    assert lane.forget_old_marks(NOW_MS + MARK_KEPT_MS) == []
    assert lane.forget_old_marks(NOW_MS + 10_000 * later) == [ORIGIN]
    assert [origin.node for origin in lane.marks] == ["node-b1"]


def test_no_mark_is_forgotten_because_this_clock_was_ahead() -> None:
    """The same flows may come again: delivery is at least once."""
    lane, source, ahead = Lane(0), intake(), NOW_MS + MARK_KEPT_MS + 86_400_000
    source.take(lane, records([at(1)]), NOW_MS)
    assert lane.forget_old_marks(ahead) == []
    # Nor where something was taken by that clock.
    source.take(lane, records([at(1, id=flow_id(1, 0, "node-b1"))], offset=1), ahead)
    assert lane.forget_old_marks(ahead) == []
    assert source.take(lane, records([at(1)], offset=2), NOW_MS + 1_000).repeats == 1


def test_a_clock_ahead_does_not_make_a_node_fresh_for_ever() -> None:
    lane = Lane(0)
    intake().take(lane, records([encoded(flow(end_ms=NOW_MS + 10**9))]), NOW_MS)
    assert lane.marks[ORIGIN].seen_ms == NOW_MS


def test_marks_that_are_read_back_are_held_to_what_holds_for_those_made_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have been made while this clock was a year ahead, or by hand."""
    ahead = NOW_MS + 365 * 86_400_000
    lane = Lane(0)
    intake().take(lane, records([at(5, 365 * 24 * 360)]), ahead)
    assert lane.marks[ORIGIN].taken_ms == ahead
    restored = Lane(0, lane.position, dict(lane.marks))
    restored.believe(NOW_MS)
    assert restored.touched == {ORIGIN}
    # A number below, of a later time than the node can have been seen in: not a repeat.
    batch = intake().take(restored, records([at(4, 60)], offset=1), NOW_MS + 700_000)
    assert (len(batch.rows), batch.repeats) == (1, 0)

    monkeypatch.setattr("sinks.intake.MAX_MARKS", 3)
    many = {Origin("lab", f"node-{n}", "5be6c2f0a91d"): FlowMark(1, 1, 0, 0, NOW_MS, NOW_MS - n) for n in range(5)}
    restored = Lane(0, 1, many)
    restored.believe(NOW_MS)
    assert [origin.node for origin in restored.marks] == ["node-2", "node-1", "node-0"]
    assert [origin.node for origin in restored.forget_old_marks(NOW_MS)] == ["node-4", "node-3"]


def test_large_books_are_split_and_add_up() -> None:
    books = Tallies()
    books.cover(START_MS, END_MS)
    chunks = [chunk_id(Origin("lab", "n" * 200, BOOT), 1, sequence, 0) for sequence in range(4_000)]
    for chunk in chunks:
        books.part(chunk).add(100, 1)
    for chunk in chunks[::2]:
        books.put_aside("encapsulation", chunk, 100, 1)
    books.repeats.add(7, 1)
    books.refuse("not_json")
    entries = books.records("metrics", "0/ab/1", 0, NOW_MS)
    assert len(entries) == len({entry.key for entry in entries}) > 1
    assert all(entry.balance() is None for entry in entries)
    assert max(len(encode_ledger(entry)) for entry in entries) < 512 * 1024
    assert sum((entry.taken for entry in entries), Amount(0, 0)) == Amount(400_007, 4001, 4002)
    assert sum((entry.given for entry in entries), Amount(0, 0)) == Amount(200_000, 2000, 2000)
    assert sum((entry.aside["encapsulation"] for entry in entries), Amount(0, 0)) == Amount(200_000, 2000, 2000)


def test_empty_books_make_no_record() -> None:
    assert Tallies().records("metrics", "1", 0, NOW_MS) == []


def at(sequence: int, later: int = 0, **overrides: Any) -> bytes:
    """Return a flow of a window so many windows after the first, and numbered anyhow."""
    start = START_MS + 10_000 * later
    fields = {"id": flow_id(sequence, 0), "start_ms": start, "end_ms": start + 10_000} | overrides
    return encoded(flow(**fields))


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(at(2**53 - 1), id="the greatest sequence"),
        pytest.param(encoded(flow(id=flow_id(0, 0, generation=2**40))), id="a generation far ahead"),
        pytest.param(at(2, start_ms=0), id="1970"),
        pytest.param(at(2, end_ms=END_MS + 10**11), id="years ahead"),
    ],
)
def test_what_no_node_can_have_come_to_is_refused(forged: bytes) -> None:
    lane, source = Lane(0), intake()
    source.take(lane, records([at(1)]), NOW_MS)
    batch = source.take(lane, records([forged, at(2, 1)], offset=1), NOW_MS + 10_000)
    assert [each.reason for each in batch.refused] == ["implausible"]
    assert [row.flow.id for row in batch.rows] == [flow_id(2, 0)]


def test_a_number_made_up_within_bounds_turns_no_later_window_into_a_repeat() -> None:
    lane, source = Lane(0), intake()
    source.take(lane, records([at(1)]), NOW_MS)
    source.take(lane, records([at(900)], offset=1), NOW_MS)
    values = [at(2 + n, 1 + n) for n in range(20)]
    batch = source.take(lane, records(values, offset=2), NOW_MS + 300_000)
    assert [row.flow.id for row in batch.rows] == [flow_id(2 + n, 0) for n in range(20)]
    assert batch.renumbered == 1
    # What is published again is still known.
    again = source.take(lane, records(values[-3:], offset=30), NOW_MS + 300_000)
    assert (again.rows, again.repeats) == ([], 3)


def test_a_node_whose_clock_is_ahead_is_taken_once() -> None:
    ahead = 40 * 360
    lane, source = Lane(0), intake()
    values = [at(n, n + ahead) for n in range(5)]
    assert len(source.take(lane, records(values), NOW_MS).rows) == 5
    assert source.take(lane, records(values, offset=5), NOW_MS + 1_000).repeats == 5


def test_marks_are_bounded_and_who_is_silent_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.intake.MAX_MARKS", 3)
    lane, source = Lane(0), intake()
    source.take(lane, records(ids([flow_id(1, 0, f"node-{n}") for n in range(3)])), NOW_MS)
    batch = source.take(lane, records(ids([flow_id(1, 0, "node-3"), flow_id(1, 1, "node-0")])), NOW_MS)
    assert [each.reason for each in batch.refused] == ["too_many_names"]
    assert len(batch.rows) == 1
    batch = source.take(lane, records(ids([flow_id(1, 0, "node-3")])), NOW_MS + MARK_IDLE_MS + 1)
    assert len(batch.rows) == 1
    assert [origin.node for origin in lane.forget_old_marks(NOW_MS)] == ["node-1"]
    assert len(lane.marks) == 3
