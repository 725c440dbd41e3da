# SPDX-License-Identifier: Apache-2.0
"""Time that nobody metered is the same in every answer, and where a part of it is not known each says so."""

import pytest

from audit.result import Audit, Gap
from doctor.pipeline import ledger_findings
from history.audit import text
from history.bill.books.trust import trust_of
from history.model.time_range import TimeRange
from history.report import machine
from history.report.page import layout
from tests.support.history.html import by_id, parsed, rows, text_of
from tests.support.history.reports import a_day, audit, report
from tests.support.sinks.flows import START_MS

KNOWN = Gap("node-a", START_MS, START_MS + 900_000, "sequence 1 to 90 missing")
UNKNOWN = Gap("node-b", START_MS + 60_000, None, "a new boot, bbbbbbbbbbbb")


def said(books: Audit) -> list[str]:
    """What report, audit and doctor say of it."""
    span = TimeRange(START_MS, START_MS + 1_800_000)
    return [
        next(fact for fact in text.trust_facts(books, "", {}, 2) if "unmeasured" in fact),
        next(line for line in text.lines(books, span) if "windows 90" in line).partition("     ")[2],
        *(found.found for found in ledger_findings(books) if found.check == "unmeasured time"),
    ]


@pytest.mark.parametrize(
    ("books", "expected"),
    [
        (audit(gaps=[]), ["no time unmeasured", "unmeasured no time"]),
        (audit(gaps=[KNOWN]), ["unmeasured 15 m on 1 node", "unmeasured 900.0 s", "900 s on node-a"]),
        (
            audit(gaps=[UNKNOWN, KNOWN]),
            [
                "unmeasured at least 15 m on 2 nodes",
                "unmeasured at least 900.0 s",
                "at least 900 s on node-a, node-b",
            ],
        ),
        (
            audit(gaps=[KNOWN], gaps_cut=True),
            ["unmeasured at least 15 m on 1 node", "unmeasured at least 900.0 s", "at least 900 s on node-a"],
        ),
        (
            audit(gaps=[UNKNOWN]),
            [
                "unmeasured a time that is not known on 1 node",
                "unmeasured a time that is not known",
                "a time that is not known on node-b",
            ],
        ),
    ],
)
def test_the_sum_is_the_same_everywhere(books: Audit, expected: list[str]) -> None:
    assert said(books) == expected
    is_least = "at least" in expected[0] or "not known" in expected[0]
    trust = machine.as_dict(report(a_day(), audit=books))["trust"]
    for answer in (trust, text.as_dict(books)):
        assert (answer["unmeasured_seconds"], answer["unmeasured_at_least"]) == (books.unmeasured_ms / 1000, is_least)
    of_bill = trust_of(books, "", (), ())
    assert sum(to - at for gaps in of_bill.unmeasured.values() for at, to in gaps) == books.unmeasured_ms
    assert of_bill.unmeasured_at_least == is_least


def test_a_gap_of_unknown_length_is_listed_as_one() -> None:
    books = audit(gaps=[KNOWN, UNKNOWN])
    span = TimeRange(START_MS, START_MS + 1_800_000)
    (line,) = (line for line in text.lines(books, span) if line.startswith("unmeasured  node-b"))
    assert "for a time that is not known, by the node's clock less than nothing: a new boot, bbbbbbbbbbbb" in line
    made = report(a_day(), audit=books)
    assert [each["to"] is None for each in machine.as_dict(made)["trust"]["unmeasured"]] == [False, True]
    shown = parsed(layout.document(made))
    assert [text_of(row[2]) for row in rows(by_id(shown, "gaps"))] == ["15 m", "not known"]
    books.nodes = {("lab", "node-a"): books, ("lab", "node-b"): books}
    table = [line.split() for line in text.lines(books, span, by="node") if line.startswith("node-")]
    assert [[cell for cell in row if cell in ("900.0", ">=", "0.0")] for row in table] == [["900.0"], [">=", "0.0"]]
