# SPDX-License-Identifier: Apache-2.0
"""What was metered for a comparison with a bill: which end a price goes by."""

from common.settings import load
from history.bill.metered import MeteredGatherer
from history.model.time_range import TimeRange
from history.range_settings import RangeSettings
from history.read.topic_sql import TopicRows
from prices.file import parse_prices
from schemas.flow import Observer
from tests.support.history.rows import database, rows_of
from tests.support.price_files import with_free_pair
from tests.support.sinks.flows import END_MS, START_MS, cloud, flow, other, pod


def test_a_relayed_leg_is_priced_by_the_node_that_sent_it_on() -> None:
    """Its sender is on the internet, in no region; the leg leaves the observer's, as a report has it."""
    relayed = flow(
        source=other("external"),
        destination=pod("web", "eu-west-1b"),
        scope="cross_zone",
        direction="relay",
        observer=Observer("node-a", cloud("eu-west-1a")),
        bytes=7,
    )
    rows = TopicRows()
    rows.add(rows_of([relayed]))
    span = TimeRange(START_MS, END_MS)
    for where in ({"source_region": "eu-west-1"}, {"source_zone": "eu-west-1a"}):
        book = parse_prices(with_free_pair(**where).encode(), "mine")
        gatherer = MeteredGatherer(load(RangeSettings, "bill", []), span, 3_600_000, ["out", "in"], book)
        gatherer._add(0, rows.query(database(), span))
        assert {(cell.node, cell.way): size for cell, size in gatherer.metered.free.items()} == {("node-a", "out"): 7}
