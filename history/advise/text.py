# SPDX-License-Identifier: Apache-2.0
"""Advice laid out for people: the answer first, then how far to trust it, then each finding with its evidence. Pure."""

from collections.abc import Iterator, Sequence

from common.amounts import commands, counted, human, labelled, percent, short_zones
from common.terminal import command
from history.advise.advice import Advice, Advised, Amount
from history.advise.follow import APPLY, manifests, verification
from history.model.states.ready import Step
from history.model.time_range import timestamp
from history.report.data import Report
from history.report.text import head, trust
from prices.book import per_month

_MOST_STEPS = 4


def lines(report: Report, advice: Advice) -> list[str]:
    """Return the lines of a page for a terminal."""
    found = [*head(report, "zonemeter advise"), *trust(report), "", *_answer(report, advice), ""]
    for each in advice.told:
        found += [*_finding(report, each), ""]
    found += _rest(report, advice)
    return [line.rstrip() for line in found]


def markdown(report: Report, advice: Advice) -> list[str]:
    """Return the same as Markdown: what names say stays text, whatever is in it."""
    found = ["# zonemeter advise", "", *_fenced([*head(report, ""), *trust(report), *_answer(report, advice)]), ""]
    for each in advice.told:
        finding = each.finding
        found += [f"## {each.number}. {_escaped(finding.subject)}: {_escaped(finding.title)}", ""]
        found += [f"**{finding.sure}**, {_escaped(_saving(report, each))}", ""]
        for name, facts in _parts(each):
            found += [f"- {name}: {_escaped(fact)}" for fact in facts]
        if finding.manifests:
            found += ["", f"`{APPLY}`", "", *_fenced(manifests(each), "yaml")]
        found += ["", "Afterwards:", "", *_fenced([verification(report, each)]), ""]
    return [*found, *_fenced(_rest(report, advice))] if advice.told or advice.unavoidable else found


def _answer(report: Report, advice: Advice) -> list[str]:
    crossing = advice.crossing
    found = labelled("CROSS-ZONE", [human(crossing.bytes), *_monthly(report, crossing)], 13)
    if not advice.told:
        return [*found, *labelled("", ["nothing to change was found", advice.left_out(report.now.bill.book)], 13)]
    spared = [
        f"{counted(len(advice.told), 'finding')} could spare at most {human(advice.spared.bytes)}",
        percent(advice.spared.bytes, crossing.bytes),
        *_monthly(report, advice.spared),
    ]
    notes = [line for note in advice.notes for line in labelled("", [note], 13)]
    return [*found, *labelled("", spared, 13), *labelled("", [advice.left_out(report.now.bill.book)], 13), *notes]


def _monthly(report: Report, amount: Amount) -> list[str]:
    metered, cash = report.summary.metered_ms, report.now.monthly(amount.cost)
    if cash is None and not metered:
        return []
    return [f"= {cash.shown if cash else human(per_month(amount.bytes, metered))} a month at this rate"]


def _finding(report: Report, each: Advised) -> Iterator[str]:
    finding = each.finding
    yield from labelled(f"{each.number}", [finding.subject, finding.title], 3, ": ")
    yield from labelled("", [f"[{finding.sure}]  {_saving(report, each)}"], 3)
    for name, facts in _parts(each):
        for number, fact in enumerate(facts):
            yield from labelled("" if number else f"   {name}", [fact], 14)
    if finding.manifests:
        yield from labelled("   change", [APPLY], 14)
        yield from (f"              {line}" for line in manifests(each))
    yield from commands("   verify", [verification(report, each)], 14)


def _saving(report: Report, each: Advised) -> str:
    if each.finding.elsewhere:
        monthly = _monthly(report, Amount(each.finding.elsewhere))
        return " ".join([f"spares nothing across zones; it is about {human(each.finding.elsewhere)}", *monthly])
    parts = [f"spares at most {human(each.spared.bytes)} of {human(each.crossing.bytes)} across zones"]
    return " ".join([*parts, *_monthly(report, each.spared)])


def _parts(each: Advised) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what a finding says, by the name of the part."""
    finding = each.finding
    if each.zones:
        short = short_zones(sorted({zone for pair in each.zones for zone in pair[:2]}))
        sizes = (f"{short[pair.source]} -> {short[pair.destination]} {human(pair.bytes)}" for pair in each.zones[:6])
        yield "zones", ["  ".join(sizes)]
    if finding.ready:
        yield "ready", [ready_line(finding.ready)]
    yield "evidence", finding.facts
    yield "needs", finding.conditions
    yield "in turn", finding.costs
    yield "also", finding.steps


def ready_line(steps: Sequence[Step]) -> str:
    """Return how many ready pods each zone had, over time."""
    said: list[tuple[int, str]] = []
    for step in steps:
        words = " ".join(f"{zone or '?'} {count}" for zone, count in sorted(step.zones.items())) or "none"
        if not said or said[-1][1] != words:
            said.append((step.from_ms, words))
    if len(said) == 1:
        return said[0][1]
    shown = [f"{words} from {timestamp(at)[5:16]}" for at, words in said[-_MOST_STEPS:]]
    return (f"{len(said) - _MOST_STEPS} changes before, " if len(said) > _MOST_STEPS else "") + ", ".join(shown)


def _rest(report: Report, advice: Advice) -> list[str]:
    found = []
    for number, (why, amount) in enumerate(advice.unavoidable):
        label = "" if number else "THE PRICE OF AVAILABILITY"
        found += labelled(label, [why, human(amount.bytes), *_monthly(report, amount)], 27)
    if advice.told:
        simulation = command(f"advise {report.range_flags}{report.flags}{report.priced_flags} --simulate 1")
        found += ["", *commands("next", [simulation], 7)]
    return found


def _fenced(rows: Sequence[str], language: str = "") -> list[str]:
    # A fence longer than any in the text: names may hold backticks.
    longest = max((len(run) for row in rows for run in row.split() if set(run) == {"`"}), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *rows, fence]


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it stands."""
    return "".join(f"\\{each}" if each in r"\`*_{}[]<>#|~&!" else each for each in text)
