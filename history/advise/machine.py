# SPDX-License-Identifier: Apache-2.0
"""Advice for programs: JSON, and the changes alone as YAML. Pure. Times are RFC 3339 in UTC, money exact decimals."""

from collections.abc import Sequence
from typing import Any

from common.terminal import plain
from history.advise import follow
from history.advise.advice import Advice, Advised, Amount
from history.model.time_range import rfc3339
from history.report import machine as report_machine
from history.report.data import Report


def as_dict(report: Report, advice: Advice) -> dict[str, Any]:
    """Return the document: the report of the range, and what is advised."""
    document = report_machine.as_dict(report)
    document["advice"] = {
        "cross_zone": _amount(report, advice.crossing),
        "spared_at_most": _amount(report, advice.spared),
        "findings": [_finding(report, each) for each in advice.told],
        "left_out_as_small": len(advice.small),
        "price_of_availability": [{"why": why, **_amount(report, amount)} for why, amount in advice.unavoidable],
        "notes": advice.notes,
    }
    return document


def simulated(report: Report, numbers: Sequence[int]) -> dict[str, Any]:
    """Return the report of the range as if findings had been followed, beside what was measured."""
    return report_machine.as_dict(report) | {"simulated": list(numbers)}


def as_yaml(advice: Advice) -> list[str]:
    """Return the changes of all findings, each behind a comment that names it: one stream for kubectl."""
    found = []
    for each in advice.told:
        if each.finding.manifests:
            # A comment ends with its line, and so does what a terminal obeys; a name from a record may hold both.
            named = plain(f"{each.finding.subject}: {each.finding.title}")
            found += ["---", f"# {each.number} [{each.finding.sure}] {named}", *follow.manifests(each)]
    return found or ["# nothing to change was found"]


def _finding(report: Report, each: Advised) -> dict[str, Any]:
    finding = each.finding
    return {
        "number": each.number,
        "kind": finding.kind,
        "subject": finding.subject,
        "title": finding.title,
        "sure": finding.sure,
        "cross_zone": _amount(report, each.crossing),
        "spared_at_most": _amount(report, each.spared),
        "elsewhere_bytes": finding.elsewhere,
        "zones": [
            {"from": pair.source, "to": pair.destination, "bytes": pair.bytes, "bytes_after": pair.after}
            for pair in each.zones
        ],
        "ready": [
            {
                "from": rfc3339(step.from_ms),
                "to": rfc3339(step.to_ms),
                "zones": dict(sorted(step.zones.items())),
            }
            for step in finding.ready
        ],
        "evidence": finding.facts,
        "conditions": finding.conditions,
        "costs": finding.costs,
        "manifests": finding.manifests,
        "steps": finding.steps,
        "verify": follow.verification(report, each),
    }


def _amount(report: Report, amount: Amount) -> dict[str, Any]:
    cash, month = report.now.cash(amount.cost), report.now.monthly(amount.cost)
    costs = {"cost": cash.exact, "cost_per_month": month.exact} if cash and month else {}
    return {"bytes": amount.bytes, **costs}
