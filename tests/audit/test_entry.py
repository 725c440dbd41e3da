# SPDX-License-Identifier: Apache-2.0
"""What is kept of an entry is packed: nothing that the audit says of it may get lost by that."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from audit import entry as entry_
from audit.entry import Coverage, Entry, add_up_entries
from schemas.amount import NOTHING, Amount
from schemas.codec import MAX_INTEGER
from schemas.ledger import LedgerRecord
from schemas.raw import UplinkCounters
from tests.support.builders import amount, collector_entry, enricher_entry

counts = st.integers(0, MAX_INTEGER)
amounts = st.builds(Amount, counts, counts, counts)
reasons = st.dictionaries(st.sampled_from(["loopback", "copied", "malformed", ""]), amounts)
uplinks = st.dictionaries(st.text(max_size=3), st.builds(UplinkCounters, counts, counts, counts, counts), max_size=3)
records = st.builds(
    LedgerRecord,
    hop=st.sampled_from(["collector", "enricher"]),
    id=st.just("c/n/b/1/1"),
    partition=st.just(0),
    start_ms=counts,
    end_ms=counts,
    taken=amounts,
    given=amounts,
    aside=reasons,
    lost=reasons,
    uplinks=uplinks,
    received=st.none() | amounts,
)


def covered(record: LedgerRecord) -> Coverage:
    into = Coverage(record.taken.bytes, sum(each.tx_bytes for each in record.uplinks.values()))
    if record.received is not None:
        into.in_hook = record.received.bytes
        into.in_uplinks = sum(each.rx_bytes for each in record.uplinks.values())
    return into


@given(records)
def test_what_it_said_is_in_it(record: LedgerRecord) -> None:
    kept = Entry.of(record)
    assert (kept.taken, kept.given) == (record.taken, record.given)
    assert (kept.start_ms, kept.end_ms, kept.chunks) == (record.start_ms, record.end_ms, record.chunks)
    ((shape, (taken, gave, *others), coverage),) = add_up_entries([kept])
    assert (taken, gave) == (record.taken, record.given)
    assert dict(zip(shape.aside, others, strict=False)) == record.aside
    assert dict(zip(shape.lost, others[len(shape.aside) :], strict=True)) == record.lost
    assert coverage == (covered(record) if record.hop == "collector" else None)


@given(st.lists(records, max_size=6))
def test_sums_are_what_adding_one_by_one_comes_to(them: list[LedgerRecord]) -> None:
    sums = {shape: (amounts, coverage) for shape, amounts, coverage in add_up_entries(map(Entry.of, them))}
    assert sum((of[0] for of, _ in sums.values()), NOTHING) == sum((each.taken for each in them), NOTHING)
    for shape, (of, coverage) in sums.items():
        same = [each for each in them if Entry.of(each).shape is shape]
        one_by_one = zip(*([e.taken, e.given, *e.aside.values(), *e.lost.values()] for e in same), strict=True)
        assert of == [sum(each, NOTHING) for each in one_by_one]
        if coverage is not None:
            assert coverage.in_hook == sum(covered(each).in_hook for each in same)


@pytest.mark.parametrize(
    ("differs", "fields"),
    [
        pytest.param(False, {"aside": {"b": amount(2), "a": amount(1)}}, id="the same reasons in another order"),
        pytest.param(False, {"uplinks": {"eth0": UplinkCounters(9, 9, 9, 9)}}, id="other counters of uplinks"),
        pytest.param(True, {"aside": {"a": amount(2), "b": amount(1)}}, id="other amounts"),
        pytest.param(True, {"aside": {}, "lost": {"a": amount(1), "b": amount(2)}}, id="lost, not aside"),
        pytest.param(True, {"chunks": 2}, id="more chunks"),
        pytest.param(True, {"chunks": None}, id="nothing of chunks"),
        pytest.param(True, {"end_ms": 7}, id="another time"),
    ],
)
def test_what_comes_again_says_the_same_if_all_that_counts_is_the_same(differs: bool, fields: dict[str, Any]) -> None:
    entry = collector_entry(1, 100, aside={"a": amount(1), "b": amount(2)}, chunks=0)
    assert (Entry.of(replace(entry, **fields)).said() != Entry.of(entry).said()) is differs


def test_a_reason_without_a_name_is_aside_or_lost() -> None:
    aside, lost = enricher_entry(1, 100, aside={"": amount(1)}), enricher_entry(1, 100, lost={"": amount(1)})
    assert Entry.of(aside).said() != Entry.of(lost).said()


def test_uplinks_that_say_more_than_fits_say_as_much_as_fits() -> None:
    many = {f"eth{number}": UplinkCounters(MAX_INTEGER, 0, MAX_INTEGER, 0) for number in range(1_100)}
    ((_, _, coverage),) = add_up_entries([Entry.of(collector_entry(1, 100, uplinks=many, received=amount(5)))])
    assert coverage == Coverage(100, 2**63 - 1, 5, 2**63 - 1)


def test_reasons_without_end_are_not_kept() -> None:
    for number in range(3_000):
        Entry.of(enricher_entry(1, 100, lost={f"reason-{number}": amount(1)}))
    Entry.of(enricher_entry(1, 100, lost={"long" * 1_000: amount(1)}))
    kept = entry_._shapes.values()
    assert len(kept) <= 1_000
    assert max(sum(map(len, shape.lost)) for shape in kept) <= 1_000
