# SPDX-License-Identifier: Apache-2.0
"""`zonemeter advise`: what to change so that less crosses zones, what that saves at most, and how sure it is.

Exit status 0, also where there is nothing to do; 1 if there is no evidence, or too little of it; 2 for wrong use.
Nothing is written to a cluster.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from common import clock, terminal
from common.amounts import duration
from common.entry_point import entry_point
from common.errors import Refusal
from history.advise import machine, text
from history.advise.advice import Advice, advise
from history.advise.finding import Case
from history.advise.gather import DEFAULT_SINCE, EvidenceSettings, gather
from history.model.bill import price_summary
from history.model.events import known_events
from history.model.evidence import Evidence
from history.model.party import Parties
from history.model.time_range import TimeRange
from history.page.bounds import Bounds
from history.range_settings import Numbers
from history.read import interrupts
from history.report import text as report_text
from history.report.data import Range, Report
from sinks.gc_settings import THRESHOLDS

PROG = "zonemeter advise"
# A day, but for the windows that are still coming in: what nights and backups do has to be in it.
LEAST_EVIDENCE_MS = 24 * 3_600_000 * 99 // 100


class AdviseSettings(EvidenceSettings):
    """Say what to change so that less crosses zones: findings with their evidence, their saving, and the change."""

    force: bool = Field(False, description="advise on less than 24 h of evidence, too")
    simulate: Numbers = Field(
        [], description="numbers of findings, comma-separated: report the range as if they had been followed"
    )
    output: Literal["table", "json", "yaml", "markdown", "html"] = Field(
        "table",
        description="how to print the answer; yaml: the changes alone, for kubectl apply --server-side; "
        "html: a page that needs no network",
    )


@dataclass(frozen=True, repr=False)
class Answer:
    """The report of a range, what is advised on it, and the evidence for that."""

    report: Report
    advice: Advice
    evidence: Evidence

    def simulated(self, numbers: Sequence[int]) -> Report:
        """Return the report of the range as if findings had been followed, beside what was measured."""
        known = {each.number: each.finding.subject for each in self.advice.told}
        for number in numbers:
            if number not in known:
                there = f"1 to {max(known)}" if known else "none: there is nothing to change"
                raise Refusal(f"simulate = {number}: no finding has this number; there is {there}")
        summary = self.evidence.summary_of(self.advice.fates(numbers), self.report.summary)
        now = self.report.now
        return replace(
            self.report,
            before=now,
            now=Range(now.span, summary, price_summary(summary, now.bill.book), now.whole),
            simulated="as if followed: " + ", ".join(f"{number} ({known[number]})" for number in numbers),
            compare="now",
        )


@entry_point("advise", AdviseSettings)
def main(settings: AdviseSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = clock.now_ms()
    span = settings.span(PROG, now_ms, DEFAULT_SINCE)
    settings.check()
    if settings.simulate and settings.output not in ("table", "json"):
        raise Refusal(f"output = {settings.output}: --simulate prints table or json")
    gc.set_threshold(*THRESHOLDS)
    answer = interrupts.run(ask(settings, span, now_ms))
    if isinstance(answer, str):
        terminal.complain(f"{PROG}: {answer}")
        return 1
    if settings.simulate:
        _print_simulated(answer.simulated(settings.simulate), settings)
    elif settings.output == "json":
        terminal.write_json(machine.as_dict(answer.report, answer.advice))
    elif settings.output == "yaml":
        terminal.write_lines(machine.as_yaml(answer.advice))
    elif settings.output == "markdown":
        terminal.write_lines(text.markdown(answer.report, answer.advice))
    elif settings.output == "html":
        from history.advise import page  # brings the template engine, which no other answer needs

        terminal.data().write(page.document(answer.report, answer.advice).encode())
    else:
        terminal.say(*text.lines(answer.report, answer.advice))
    return 0


async def ask(settings: AdviseSettings, span: TimeRange, now_ms: int) -> Answer | str:
    """Return what is advised on a range, or why nothing is; raises `Refusal`."""
    found = await gather(settings, span, now_ms)
    if isinstance(found, str):
        return found
    report = found.report
    if settings.output == "html":
        report.top = Bounds().rows
        report.events, report.events_note = known_events(found.states, span)
    case = Case(found.evidence, found.states, Parties())
    too_little = _too_little(report, force=settings.force)
    return too_little or Answer(report, advise(case, report.summary, report.now.bill.book), found.evidence)


def _too_little(report: Report, *, force: bool) -> str:
    metered = report.summary.metered_ms
    if force or metered >= LEAST_EVIDENCE_MS:
        return ""
    return (
        f"{duration(metered)} were metered in {report.now.span}: advice wants 24 h of evidence, so that what nights "
        "and backups do is in it; say a longer --since, or --force"
    )


def _print_simulated(report: Report, settings: AdviseSettings) -> None:
    if settings.output == "json":
        terminal.write_json(machine.simulated(report, settings.simulate))
    else:
        terminal.say(*report_text.lines(report))
