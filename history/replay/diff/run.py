# SPDX-License-Identifier: Apache-2.0
"""`zonemeter replay --diff`: reads what was recorded, joins the raw flows again, and says what differs."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import Refusal
from common.input.files import scratch
from common.terminal import data, say, write_json
from enricher.join.join import Joined
from history.model.filters import Selection
from history.model.time_range import TimeRange, rfc3339
from history.read.flows import enriched_rows, rejoined_rows, together
from history.read.progress import Tell, progress
from history.read.rejoin import Joiner, ReadTally, read_joiner
from history.read.topic_sql import Sieve
from history.replay.diff.differences import Differences
from history.replay.diff.pairs import Pairs, Side
from history.replay.diff.text import as_csv, as_dict, as_lines, as_rows
from history.replay.settings import ReplaySettings
from prices.book import PriceBook
from prices.file import load_prices
from schemas.raw import RawChunk
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Intake, Row


@dataclass(frozen=True, slots=True)
class _Noting(Joiner):
    """Joins, and notes of each chunk its id, how many rows it has, and whether some were put aside."""

    chunks: list[tuple[str, int, bool]] = field(default_factory=list)

    def join(self, chunk: RawChunk, partition: int = 0, offset: int = 0) -> Joined:
        """Return what a chunk becomes."""
        joined = Joiner.join(self, chunk, partition, offset)
        self.chunks.append((chunk.id, len(chunk.src), bool(joined.aside)))
        return joined


class Diff:
    """One run. `notes`: what is to be said of it on stderr, once it has run."""

    def __init__(self, settings: ReplaySettings, span: TimeRange, selection: Selection) -> None:
        """Raise `Refusal` for price files that are wrong."""
        self._settings = settings
        self._span = span
        self._sieves: dict[Side, Sieve] = {side: Sieve(selection) for side in ("recorded", "rejoined")}
        self._tallies: dict[Side, ReadTally] = {"recorded": ReadTally(), "rejoined": ReadTally()}
        self._before, self._after = _books(settings)

    async def run(self) -> str:
        """Read, compare and print; return why there was nothing to compare, "" if there was. Raises `Refusal`."""
        found = Differences(self._before, self._after)
        with progress("reading") as tell, scratch() as directory:
            pairs = Pairs(Path(directory))
            with contextlib.closing(pairs):
                await self._read(pairs, tell)
                for each in pairs.found():
                    found.add(each)
        if not found.found:
            hint = next(filter(None, (sieve.why_nothing() for sieve in self._sieves.values())), "")
            return hint or f"no flow in {self._span} is recorded in topic {self._settings.topics.enriched}, or raw"
        self._print(found)
        return ""

    def notes(self) -> list[str]:
        """Return what is to be said of the run."""
        found = []
        for side, what in (("recorded", "recorded"), ("rejoined", "raw")):
            tally = self._tallies[side]  # type: ignore[index]
            if tally.refused:
                refused = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.refused.items()))
                found.append(f"left out of what is {what}, not to be decoded: {refused}")
            if tally.reading.cut_off:
                found.append(f"the oldest {what} records are gone, perhaps some of this range")
        if self._settings.cidr_map is None:
            found.append("joined without --cidr-map: what only the enricher's map names is external or unknown here")
        return found

    async def _read(self, pairs: Pairs, tell: Tell) -> None:
        settings, spans = self._settings, [self._span]
        taken = self._tallies["recorded"]
        await self._take(pairs, "recorded", enriched_rows(settings, Intake(flatten), spans, taken), tell)
        taken = self._tallies["rejoined"]
        joiner = await read_joiner(settings, settings.cidr_map, taken)
        noting = _Noting(joiner.resolver, joiner.policy)
        rows = rejoined_rows(settings, Intake(flatten), spans, taken, noting)
        await self._take(pairs, "rejoined", rows, tell, noting)

    async def _take(
        self,
        pairs: Pairs,
        side: Side,
        batches: AsyncIterator[list[Row[FlatEnd]]],
        tell: Tell,
        noting: _Noting | None = None,
    ) -> None:
        async for rows in together(batches):
            tell(self._tallies[side].reading)
            wanted = {row.flow.id for row in self._sieves[side].wanted(rows)}
            pairs.add(side, rows, wanted)
            if noting is not None:
                pairs.add_chunks(noting.chunks)
                noting.chunks.clear()
        if noting is not None:
            pairs.add_chunks(noting.chunks)

    def _print(self, found: Differences) -> None:
        settings = self._settings
        book = self._after or self._before
        currency = "" if book is None else book.currency
        if settings.output == "table":
            cidrs = f", {settings.cidr_map}" if settings.cidr_map else ""
            sides = (f"topic {settings.topics.enriched}", f"topic {settings.topics.raw}{cidrs}")
            say(*as_lines(found, [str(self._span)], sides, currency, settings.top))
        elif settings.output == "csv":
            data().write(as_csv(found, currency).encode())
        elif settings.output == "json":
            range_ = {"from": rfc3339(self._span.from_ms), "to": rfc3339(self._span.to_ms)}
            write_json({"range": range_, **as_dict(found, currency)})
        else:
            for row in as_rows(found):
                write_json(row, indent=False)


def _books(settings: ReplaySettings) -> tuple[PriceBook | None, PriceBook | None]:
    """Return the price files of what was recorded, and of what is joined again."""
    if settings.prices is None:
        return None, None
    after = load_prices(settings.prices)
    before = after if settings.prices_before is None else load_prices(settings.prices_before)
    if before.currency != after.currency:
        raise Refusal(
            f"prices_before = {settings.prices_before!r} is in {before.currency}, prices = {settings.prices!r} in "
            f"{after.currency}; expected one currency"
        )
    return before, after
