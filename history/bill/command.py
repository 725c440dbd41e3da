# SPDX-License-Identifier: Apache-2.0
"""`zonemeter bill FILE...`: what was metered beside what the cloud bills for it, and why the two differ.

Exit status 0 if what has no reason is within the tolerance, 1 if it is not (or a charge is there that should not be),
2 for wrong use and for a bill that cannot be compared: of another time, of other accounts, damaged.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from common import clock, terminal
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.files import sync_directory
from common.settings import KafkaSettings
from common.terminal import complain
from enricher.delivery.topology_topic import read_states
from history.audit.command import audit_of
from history.bill import machine, text
from history.bill.answer import Answer
from history.bill.books.compare import compare
from history.bill.books.resources import Nodes
from history.bill.books.sums import DAY_MS, GB, GIB, Billed
from history.bill.books.trust import trust_of
from history.bill.books.unit import Unit
from history.bill.metered import MeteredGatherer
from history.bill.rates import price_file, rates
from history.bill.read import BillFiles
from history.model.time_range import Instant, Since, TimeRange
from history.range_settings import FlowSettings, RangeSettings, Words
from history.read import interrupts
from history.read.rejoin import states_of
from prices.file import load_prices
from schemas.topology import TopologyState

PROG = "zonemeter bill"
_UNITS = {"GB": GB, "GiB": GIB}


class BillSettings(FlowSettings):
    """Set what was metered beside what the cloud bills for it, and size every reason of a difference."""

    file: CliPositionalArg[list[Path]] = Field(
        description="the bill: AWS CUR, FOCUS, Google Cloud's BigQuery export, Azure's cost details; CSV, JSON, Parquet"
    )
    since: Since | None = Field(
        None, description="how far back, such as 7d, or since when; without it and --from: the bill's whole time"
    )
    from_time: Instant | None = Field(None, description="start: a time, or yesterday; without a zone: UTC")
    topology: Path | None = Field(None, description="a file of states instead of the topology topic")
    account: Words = Field([], description="only these accounts of the bill, comma-separated")
    prices: str | None = Field(
        None, description="aws, azure, gcp or a file: what it prices at 0 by name is metered and not billed"
    )
    unit: Literal["GB", "GiB"] | None = Field(None, description="what the bill's unit is; else it is fitted")
    tolerance: float = Field(
        5.0, ge=0, le=100, description="percent that may be unexplained before the exit status is 1"
    )
    write_prices: Path | None = Field(None, description="write a price file with the bill's effective rates")
    top: int = Field(10, ge=1, le=10_000, description="how many days and nodes to show")
    output: Literal["table", "json", "csv"] = Field("table", description="how to print the answer")


@entry_point("bill", BillSettings)
def main(settings: BillSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = clock.now_ms()
    if settings.prices is not None:
        load_prices(settings.prices)  # what is wrong with it, before anything is read
    with ExitStack() as stack:
        with interrupts.kept():
            bill = stack.enter_context(BillFiles(settings.file, settings.account))
        span = _span(settings, bill, now_ms)
        answer = interrupts.run(_answer(settings, bill, span, now_ms))
    if settings.write_prices is not None:
        _write(settings.write_prices, price_file(answer.billed, answer.found.unit, span))
        for rate in answer.rates:
            if not rate.is_whole:
                complain(
                    f"{PROG}: {settings.write_prices} has no price of {rate.region}: only one side was billed there"
                )
    terminal.answer(
        settings.output,
        json=lambda: machine.as_dict(answer),
        csv=lambda: machine.as_csv(answer),
        table=lambda: text.lines(answer),
    )
    return 0 if answer.is_good else 1


def _span(settings: BillSettings, bill: BillFiles, now_ms: int) -> TimeRange:
    """Return the whole periods of the bill within what was asked for; raise `Refusal` where there is none."""
    if settings.since is None and settings.from_time is None:
        end = settings.to_time or "now"
        asked = settings.model_copy(update={"from_time": "1970-01-01T00:00:00Z", "to_time": end}).span(PROG, now_ms)
        asked = TimeRange(bill.span.from_ms, min(asked.to_ms, bill.span.to_ms))
    else:
        asked = settings.span(PROG, now_ms)
    length = bill.period_ms
    span = TimeRange(
        -(-max(asked.from_ms, bill.span.from_ms) // length) * length,
        min(asked.to_ms, bill.span.to_ms) // length * length,
    )
    by = "day" if length == DAY_MS else "hour"
    if span.from_ms >= span.to_ms:
        raise Refusal(
            f"the bill is of {bill.span}, by the {by}; no whole {by} of it is in {asked}: is it of another month? "
            "--from and --to choose the range"
        )
    if (settings.since or settings.from_time) and (span.from_ms, span.to_ms) != (asked.from_ms, asked.to_ms):
        complain(f"{PROG}: compared is {span}: the whole {by}s of the bill in {asked}")
    return span


async def _answer(settings: BillSettings, bill: BillFiles, span: TimeRange, now_ms: int) -> Answer:
    kafka = settings.model_dump(include=set(KafkaSettings.model_fields))
    notes = list(bill.notes)
    nodes = Nodes(await _nodes(settings, notes))
    billed = bill.billed(span, nodes.resources)
    _check_accounts(billed, nodes)
    book = None if settings.prices is None else load_prices(settings.prices)
    asked = RangeSettings.model_construct(**kafka, cluster=settings.cluster, archive=settings.archive)
    gatherer = MeteredGatherer(asked, span, bill.period_ms, billed.ways, book)
    metered = await gatherer.read()
    summary = gatherer.summary
    if not summary.windows:
        sources = "; ".join(gatherer.gathered.sources)
        raise Refusal(f"nothing was metered in {span}, of which the bill is ({sources}); is it of another month?")
    audit, why = await audit_of(settings, span, now_ms, summary.clusters)
    trust = trust_of(audit, why, nodes.within(span.from_ms, span.to_ms), summary.observers)
    unit = None if settings.unit is None else Unit(_UNITS[settings.unit], "given")
    found = compare(billed, metered, trust, nodes, now_ms, unit)
    return Answer(
        span=span,
        billed=billed,
        metered=metered,
        found=found,
        trust=trust,
        rates=rates(billed, found.unit),
        clusters=sorted(summary.clusters),
        observers=len(summary.observers),
        scopes=dict(summary.scopes),
        sources=gatherer.gathered.sources,
        notes=notes,
        audit=audit,
        tolerance=settings.tolerance,
        top=settings.top,
    )


def _check_accounts(billed: Billed, nodes: Nodes) -> None:
    """Raise `Refusal` for a bill none of whose resources is a node, though both are named: it is somebody else's."""
    mine = [cell for cell in billed.cells if cell.resource]
    if billed.names_resources and nodes.resources and billed.cells and not mine:
        accounts, others = ", ".join(sorted(billed.accounts)[:5]), ", ".join(list(billed.others)[:3])
        raise Refusal(
            f"none of the bill's resources is a node of the cluster: accounts {accounts}, resources {others}; nodes "
            f"are {', '.join(sorted(nodes.resources)[:3])}; give the bill of their account"
        )


async def _nodes(settings: BillSettings, notes: list[str]) -> list[TopologyState]:
    """Return the states of nodes; none, with a note, where they cannot be read."""
    try:
        if settings.topology is not None:
            states = read_states(settings.topology)
        else:
            states = [state async for state in states_of(settings, "node", lambda *_: None)]  # the audit names them
    except Refusal as error:
        if settings.topology is not None:
            raise
        notes.append(f"nodes are not matched with the bill's resources: {error}")
        return []
    nodes = [state for state in states if state.kind == "node"]
    if not any(state.provider_id for state in nodes):
        notes.append("nodes are not matched with the bill's resources: the topology has no provider id")
    return nodes


def _write(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
            made = Path(directory, path.name)
            with made.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            made.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise Refusal(f"write_prices = '{path}': {error.strerror}") from error
