# SPDX-License-Identifier: Apache-2.0
"""`zonemeter advise`: what to change so that less crosses zones, what that saves at most, and how sure it is.

Exit status 0, also where there is nothing to do; 1 if there is no evidence, or too little of it; 2 for wrong use.
Nothing is written to a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from common import clock, terminal
from common.amounts import duration
from common.entry_point import entry_point
from common.errors import Nothing, Refusal
from history.advise import machine, text
from history.advise.advice import Advice, advise
from history.advise.finding import Case
from history.advise.gather import DEFAULT_SINCE, gather
from history.model.bill import price_summary
from history.model.evidence import Evidence
from history.model.party import Parties
from history.model.states.events import known_events
from history.model.time_range import TimeRange
from history.page.bounds import Bounds
from history.range_settings import EvidenceSettings, Numbers
from history.read import interrupts
from history.report import text as report_text
from history.report.data import Range, Report

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
    answer = interrupts.run(ask(settings, span, now_ms))
    report, advice = answer.report, answer.advice
    if settings.simulate:
        simulated = answer.simulated(settings.simulate)
        terminal.answer(
            settings.output,
            json=lambda: machine.simulated(simulated, settings.simulate),
            table=lambda: report_text.lines(simulated),
        )
        return 0
    terminal.answer(
        settings.output,
        json=lambda: machine.as_dict(report, advice),
        yaml=lambda: machine.as_yaml(advice),
        markdown=lambda: text.markdown(report, advice),
        html=lambda: _page(answer),
        table=lambda: text.lines(report, advice),
    )
    return 0


async def ask(settings: AdviseSettings, span: TimeRange, now_ms: int) -> Answer:
    """Return what is advised on a range; raises `Nothing` for too little evidence, too, and `Refusal`."""
    found = await gather(settings, span, now_ms)
    report = found.report
    if settings.output == "html":
        report.top = Bounds().rows
        report.events, report.events_note = known_events(found.states, span)
    case = Case(found.evidence, found.states, Parties())
    metered = report.summary.metered_ms
    if metered < LEAST_EVIDENCE_MS and not settings.force:
        raise Nothing(
            f"{duration(metered)} were metered in {report.now.span}: advice wants 24 h of evidence, so that what "
            "nights and backups do is in it; say a longer --since, or --force"
        )
    return Answer(report, advise(case, report.summary, report.now.bill.book), found.evidence)


def _page(answer: Answer) -> str:
    from history.advise import page  # brings the template engine, which no other answer needs

    return page.document(answer.report, answer.advice)
