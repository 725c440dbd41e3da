# SPDX-License-Identifier: Apache-2.0
"""An audit that cannot find a fault is worth nothing: each test but the first puts one in."""

import pytest

from replay.ledger_book import Audit, reconcile
from schemas.ids import Origin
from schemas.ledger import LedgerRecord
from schemas.topology import TopologyState
from tests.builders import END_MS, ORIGIN, amount, collector_entry, enricher_entry, sink_entry

LATER = END_MS + 3_600_000


def whole(windows: int = 3, size: int = 1_000) -> list[LedgerRecord]:
    sizes = dict.fromkeys(range(windows), size)
    return [
        *(collector_entry(sequence, size) for sequence in sizes),
        *(enricher_entry(sequence, size) for sequence in sizes),
        sink_entry("metrics", 1, sizes),
        sink_entry("flowlog", 1, sizes),
    ]


def audit(records: list[LedgerRecord], settled_before_ms: int = LATER) -> Audit:
    return reconcile(records, settled_before_ms)


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
    assert [(gap.node, (gap.to_ms - gap.from_ms) // 1000) for gap in books.gaps] == [("node-a1", 20), ("node-a1", 20)]
    assert books.gaps[0].why == "sequence 1 to 2 missing"
    assert "new boot" in books.gaps[1].why


def test_nodes_of_the_cluster_that_nobody_metered_show() -> None:
    nodes = [TopologyState(kind="node", uid=n, resource_version="1", name=n, from_ms=0) for n in ("node-a1", "node-b1")]
    books = reconcile(whole(), LATER, nodes)
    assert books.nodes_in_cluster == {"node-a1", "node-b1"}
    assert books.nodes_metered == {"node-a1"}


def test_a_sink_that_never_reported_is_absent_not_short() -> None:
    books = audit([record for record in whole() if record.hop != "metrics"])
    assert books.closes
    assert books.absent == ["metrics"]
