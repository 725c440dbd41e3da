# SPDX-License-Identifier: Apache-2.0
"""`zonemeter advise`: what to change so that less crosses zones, what that saves at most, and how sure it is.

Exit status 0, also where there is nothing to do; 1 if there is no evidence, or too little of it; 2 for wrong use.
Nothing is written to a cluster.
"""

import gc
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from common import terminal
from common.amounts import duration
from common.entry_point import entry_point
from common.errors import Refusal
from history.advise import machine, text
from history.advise.advice import Advice, advise
from history.advise.finding import Case
from history.model.bill import price_summary
from history.model.evidence import Evidence
from history.model.party import Parties
from history.range_settings import Numbers
from history.read import interrupts
from history.read.rejoin import ReadTally, known_states
from history.report import text as report_text
from history.report.data import Range, Report
from history.report.make import PricedSettings, make_report
from sinks.gc_settings import THRESHOLDS

PROG = "zonemeter advise"
_DEFAULT_SINCE = "7d"
# A day, but for the windows that are still coming in: what nights and backups do has to be in it.
LEAST_EVIDENCE_MS = 24 * 3_600_000 * 99 // 100


class AdviseSettings(PricedSettings):
    """Say what to change so that less crosses zones: findings with their evidence, their saving, and the change."""

    topology: Path | None = Field(None, description="a file of states instead of the topology topic")
    force: bool = Field(False, description="advise on less than 24 h of evidence, too")
    simulate: Numbers = Field(
        [], description="numbers of findings, comma-separated: report the range as if they had been followed"
    )
    output: Literal["table", "json", "yaml", "markdown"] = Field(
        "table", description="how to print the answer; yaml: the changes alone, for kubectl apply --server-side"
    )


@entry_point("advise", AdviseSettings)
def main(settings: AdviseSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = time.time_ns() // 1_000_000
    span = settings.span(PROG, now_ms, _DEFAULT_SINCE)
    settings.check()
    gc.set_threshold(*THRESHOLDS)
    evidence = Evidence(span)
    made = make_report(settings, [span], now_ms, since=_DEFAULT_SINCE, evidence=evidence)
    report, nothing = interrupts.run(made)
    if not nothing:
        nothing = _too_little(report, force=settings.force)
    if nothing:
        terminal.complain(f"{PROG}: {nothing}")
        return 1
    _check_clusters(report)
    taken = ReadTally()
    states = interrupts.run(known_states(settings, settings.topology, taken))
    report.refused += taken.refused.total()
    advice = advise(Case(evidence, states, Parties()), report.summary, report.now.bill.book)
    if settings.simulate:
        _simulate(settings, advice, evidence, report)
    elif settings.output == "json":
        terminal.write_json(machine.as_dict(report, advice))
    elif settings.output == "yaml":
        terminal.say(*machine.as_yaml(advice))
    elif settings.output == "markdown":
        terminal.say(*text.markdown(report, advice))
    else:
        terminal.say(*text.lines(report, advice))
    return 0


def _too_little(report: Report, *, force: bool) -> str:
    metered = report.summary.metered_ms
    if force or metered >= LEAST_EVIDENCE_MS:
        return ""
    return (
        f"{duration(metered)} were metered in {report.now.span}: advice wants 24 h of evidence, so that what nights "
        "and backups do is in it; say a longer --since, or --force"
    )


def _check_clusters(report: Report) -> None:
    clusters = sorted(report.summary.clusters)
    if len(clusters) > 1:
        raise Refusal(f"the range holds clusters {', '.join(clusters)}, and the topology is of one; say --cluster NAME")


def _simulate(settings: AdviseSettings, advice: Advice, evidence: Evidence, report: Report) -> None:
    known = [each.number for each in advice.told]
    for number in settings.simulate:
        if number not in known:
            there = f"1 to {known[-1]}" if known else "none: there is nothing to change"
            raise Refusal(f"simulate = {number}: no finding has this number; there is {there}")
    if settings.output not in ("table", "json"):
        raise Refusal(f"output = {settings.output}: --simulate prints table or json")
    summary = evidence.summary_of(advice.fates(settings.simulate), report.summary)
    report.before = report.now
    report.now = Range(report.now.span, summary, price_summary(summary, report.now.bill.book), report.now.whole)
    report.simulated = "as if followed: " + ", ".join(
        f"{each.number} ({each.finding.subject})" for each in advice.told if each.number in settings.simulate
    )
    report.compare = "now"
    if settings.output == "json":
        terminal.write_json(machine.simulated(report, settings.simulate))
    else:
        terminal.say(*report_text.lines(report))
