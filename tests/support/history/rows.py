# SPDX-License-Identifier: Apache-2.0
"""Flows made by hand, as the rows that a topic's readers take, and summed up as they sum them up."""

from collections.abc import Iterable, Sequence
from functools import cache

import duckdb

from history.model.evidence import Evidence
from history.model.filters import Selection
from history.model.grouping import By, Per
from history.model.party import Parties
from history.model.states.labels import LabelTime
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.database import open_database
from history.read.flow_sql import ALWAYS
from history.read.topic_sql import TopicRows
from schemas.flow import Flow, decode_head
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Row
from tests.support.sinks.flows import encoded


def rows_of(flows: Iterable[Flow]) -> list[Row[FlatEnd]]:
    """Return rows, repeats too; what is equal is one object, as it is to readers."""
    ends: dict[object, FlatEnd] = {}
    return [
        Row(
            decode_head(encoded(one)),
            ends.setdefault(one.source, flatten(one.source)),
            ends.setdefault(one.destination, flatten(one.destination)),
            one.observer,
        )
        for one in flows
    ]


def summed(
    flows: Iterable[Flow],
    ends: Parties | None = None,
    by: By | None = None,
    span: TimeRange = ALWAYS,
    per: Per | None = None,
    labels: Sequence[LabelTime] = (),
    selection: Selection | None = None,
) -> Summary:
    """Sum flows of a range up."""
    summary, rows = Summary(), TopicRows()
    rows.add(rows_of(flows))
    rows.query(database(), span).summarise(ends or Parties(), summary, selection or Selection(), by, per, labels)
    return summary


@cache
def database() -> duckdb.DuckDBPyConnection:
    """Return one database for all: opening one takes as long as summing up."""
    return open_database()


def evidence_of(flows: Iterable[Flow], span: TimeRange, parties: Parties | None = None) -> tuple[Evidence, Summary]:
    """Gather what advice is made of from flows of a range."""
    evidence, summary, rows = Evidence(span), Summary(), TopicRows()
    rows.add(rows_of(flows))
    rows.query(database(), span).gather(parties or Parties(), evidence, summary, Selection())
    return evidence, summary
