# SPDX-License-Identifier: Apache-2.0
"""Sums up what was metered for a comparison with a bill: by period, node and way, from the archive and the topic.

The sending node is the one that a packet leaves: for a relayed packet the node that sent it on, which is billed once
more. Flows belong to the period in which their window began, so that a window over a full hour is not split.
"""

from collections.abc import Mapping, Sequence

from history.bill.books.sums import Metered, NodeCell, Way
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.range_settings import RangeSettings
from history.read.flow_sql import FlowQuery
from history.read.progress import progress
from history.report.sources.gather import Gatherer
from prices.book import PriceBook, Side
from schemas.flow import Scope

_WANTED: tuple[Scope, ...] = ("cross_zone", "unknown")
_SENDER = "CASE WHEN direction = 'relay' THEN observer_node ELSE src_node END"
# Of the far side, what a price may depend on.
_NAME = "CASE WHEN {0}kind = 'cidr' THEN {0}name END"
_SENDING_ZONE = "CASE WHEN direction = 'relay' THEN observer_zone ELSE src_zone END"


class MeteredGatherer(Gatherer):
    """Reads one range; beside what a report sums up, by node. `ways`: those that the bill has.

    `prices`: what it prices at nothing is metered, and not billed.
    """

    def __init__(
        self,
        settings: RangeSettings,
        span: TimeRange,
        period_ms: int,
        ways: Sequence[Way],
        prices: PriceBook | None = None,
    ) -> None:
        super().__init__(settings, [span], Parties())
        self.metered = Metered()
        self._ways = ways
        self._period_ms = period_ms
        self._prices = prices
        self._wanted = Selection(clusters=settings.cluster, scopes=_WANTED)

    @property
    def summary(self) -> Summary:
        """What a report would sum up."""
        return self.gathered.summaries[0]

    async def read(self) -> Metered:
        """Read everything; raises `Refusal`."""
        with progress("reading flows") as tell:
            await self.gather(tell)
        self.metered.windows = self.summary.windows
        return self.metered

    def _add(self, number: int, query: FlowQuery) -> None:
        super()._add(number, query)
        period = f"epoch_ms(window_start) // {self._period_ms} * {self._period_ms}"
        names = [_NAME.format(side) for side in ("src_", "dst_")]
        places = ("src_region", "dst_region", _SENDING_ZONE, "dst_zone")
        regions = query.regions()
        nodes: dict[Way, str] = {"out": _SENDER, "in": "dst_node"}
        for way, node in nodes.items():
            columns = (period, "scope", node, "direction = 'relay'", *names, *places)
            for row in query.sums(columns, self._wanted):
                self._take(way, regions, *row)

    def _take(
        self,
        way: Way,
        regions: Mapping[str, str],
        period: int,
        scope: Scope,
        node: str | None,
        relayed: bool,
        source: str | None,
        destination: str | None,
        source_region: str | None,
        destination_region: str | None,
        source_zone: str | None,
        destination_zone: str | None,
        size: int,
    ) -> None:
        metered = self.metered
        if scope == "cross_zone" and way == "out" and relayed:
            metered.relayed += size
        if node is None:
            if scope == "cross_zone":
                metered.far[(source if way == "out" else destination) or "(no name)"] += size
            return
        if "both" not in self._ways and way not in self._ways:
            return
        cell = NodeCell(period, node, "both" if "both" in self._ways else way)
        if scope == "unknown":
            metered.unknown[cell] += size
            return
        metered.cells[cell] += size
        zone = source_zone or ""
        sides = (
            Side(regions.get(zone, "") if relayed else source_region or "", source or "", zone=zone),
            Side(destination_region or "", destination or "", zone=destination_zone or ""),
        )
        if self._prices is not None and self._is_free(way, *sides):
            metered.free[cell] += size

    def _is_free(self, way: Way, source: Side, destination: Side) -> bool:
        """Return whether the price file bills this side nothing."""
        price = None if self._prices is None else self._prices.find("cross_zone", source, destination)
        return price is not None and not (price.source if way == "out" else price.destination)
