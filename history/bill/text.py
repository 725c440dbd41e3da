# SPDX-License-Identifier: Apache-2.0
"""How a comparison with a bill is shown to people: the answer first, then why, then where. Pure."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from common.amounts import (
    columns,
    commands,
    counted,
    dollars,
    duration,
    exact,
    fitted,
    human,
    labelled,
    percent,
    ranked,
    shorten,
    wrapped,
)
from common.terminal import command
from history.audit.text import trust_facts
from history.bill.answer import Answer
from history.bill.books.compare import Reason, Sum
from history.bill.books.sums import ALL, DAY_MS, Quantity
from history.bill.books.unit import Unit
from history.bill.rates import priced_unit
from history.model.time_range import timestamp

_WHY = {
    "twice": "lines twice",
    "regional": "not across zones",
    "other_resources": "other resources",
    "unmetered_nodes": "nodes unmetered",
    "not_charged": "not charged",
    "unmeasured_time": "unmeasured time",
    "lost": "lost on the way",
    "coverage": "not seen by the hook",
    "sent_unmetered": "received of these",
    "unknown": "unknown",
    "free": "free by price file",
    "not_final": "bill not final",
}
_MEANS = {
    "unmetered_nodes": "billed to nodes without a collector:",
    "unmeasured_time": "the node's rate times the time that nobody metered",
    "lost": "the node's rate times the part that the ledger calls lost",
    "coverage": "the node's rate times what its uplinks sent unseen",
    "sent_unmetered": "what was sent and not metered, others received",
    "unknown": "metered, perhaps across zones: no more than that",
    "free": "metered, and priced at 0",
    "not_final": "the last two days of a bill fill late",
}


def lines(answer: Answer) -> list[str]:
    """Return the answer's lines."""
    parts = [_head(answer), _trust(answer), [""], _totals(answer), [""], _reasons(answer), _verdict(answer), [""]]
    parts += [_where(answer), _findings(answer), _apart(answer), _next(answer)]
    return [line.rstrip() for part in parts for line in part]


def _head(answer: Answer) -> list[str]:
    span, billed = answer.span, answer.billed
    cluster = f"cluster{'s' if len(answer.clusters) > 1 else ''} {', '.join(answer.clusters)}"
    head = labelled("zonemeter bill", [shorten(cluster, 26), f"{span} ({duration(span.to_ms - span.from_ms)})"], 19)
    of = [shorten(f"account {name}", 60) for name in list(billed.accounts)[:3]]
    more = [f"and {len(billed.accounts) - 3} more"] if len(billed.accounts) > 3 else []
    by = "by the day" if billed.period_ms == DAY_MS else "by the hour"
    files = f"{counted(billed.files, 'file')}, {counted(billed.lines, 'line')} of transfer, {by}"
    head += labelled("bill", [billed.title, files, *of, *more])
    head += labelled("source", answer.sources)
    return head + labelled("unit", _unit(answer.found.unit))


def _unit(unit: Unit) -> list[str]:
    if unit.how_sure == "known":
        return ["the bill counts bytes, or says what its unit is"]
    if unit.how_sure == "given":
        return [f"{unit.name} = {unit.bytes:,} bytes, as given"]
    if unit.ratio is None:
        return [f"{unit.name} = {unit.bytes:,} bytes, assumed: no node was metered whole and billed; --unit says which"]
    fit = f"{unit.ratio:.4f} x 10^9 bytes metered for a unit billed; GB is 1.0000, GiB 1.0737"
    if unit.how_sure == "unclear":
        return [f"GB = {unit.bytes:,} bytes, assumed: unclear", fit, "--unit GB|GiB says which"]
    agree = f"{unit.how_sure}: {100 * unit.agree:.0f} % of {unit.cells:,} cells agree"
    return [f"{unit.name} = {unit.bytes:,} bytes", agree, fit]


def _trust(answer: Answer) -> list[str]:
    trust = answer.trust
    facts = trust_facts(answer.audit, trust.why_none, answer.scopes, answer.observers, trust.unmetered)
    return labelled("trust", [*facts, *answer.notes])


def _totals(answer: Answer) -> list[str]:
    found = answer.found
    names = {"out": "sent", "in": "received", "both": "both ways"}
    rows = [("CROSS-ZONE", "metered", "billed", "billed - metered", "")]
    for way, each in found.ways.items():
        rows.append((names[way], *_row(each.metered, each.billed)))
    beside = found.billed - sum(each.billed for each in found.ways.values())
    if beside:
        rows.append(("same usage type", "", human(beside), "", "twice, or not across zones"))
    if len(rows) > 2:
        rows.append(("together", *_row(found.metered, found.billed)))
    table = columns(rows, "<>>><")
    cost = [f"billed {_money(answer.cost, answer.billed.currency)}"]
    for rate in answer.rates[:3]:
        where = f" in {rate.region}" if rate.region else ""
        sides = ((rate.source, "sent"), (rate.destination, "received"))
        known = [f"{exact(amount)} {side}" for amount, side in sides if amount is not None]
        cost.append(f"{', '.join(known)} per {priced_unit(answer.billed, found.unit).name}{where}")
        cost += [f"nothing {side} was billed{where}" for amount, side in sides if amount is None]
    return [*table, *labelled("", cost, 0)]


def _row(metered: int, billed: int) -> tuple[str, str, str, str]:
    return human(metered), human(billed), _signed(billed - metered), _share(billed - metered, billed)


def _reasons(answer: Answer) -> list[str]:
    reasons = sorted(answer.found.reasons, key=lambda reason: (-abs(reason.bytes), reason.why, reason.detail))
    if not reasons:
        return ["WHY          no reason of a difference was found"]
    shown = reasons[: answer.top + 10]
    rows = [("WHY", "bytes", "", "how", "")]
    for reason in shown:
        share = _share(reason.bytes, answer.found.billed)
        rows.append((_WHY[reason.why], _signed(reason.bytes), share, reason.how, _detail(reason)))
    if rest := reasons[len(shown) :]:
        rows.append((f"{len(rest)} more", _signed(sum(reason.bytes for reason in rest)), "", "", ""))
    return fitted(rows, "<>><<", (4,))


def _detail(reason: Reason) -> str:
    return " ".join(filter(None, (_MEANS.get(reason.why, ""), reason.detail)))


def _verdict(answer: Answer) -> list[str]:
    found = answer.found
    verdict = "within" if answer.within_tolerance else "MORE THAN"
    facts = [
        _signed(found.unexplained),
        f"{100 * found.off:.2f} % of {'billed' if found.billed >= found.metered else 'metered'}",
        f"{verdict} {answer.tolerance:g} %",
    ]
    return labelled("UNEXPLAINED", facts, 13)


def _where(answer: Answer) -> list[str]:
    """Return the days and the resources of which most is unexplained."""
    days = {timestamp(day)[:10]: each for day, each in answer.days.items()}
    found = _table("DAY", days, answer.top)
    resources = {_resource(name, answer): each for name, each in answer.found.resources.items() if name != ALL}
    return [*found, "", *_table("NODE", resources, answer.top), ""] if resources else [*found, ""]


def _resource(name: str, answer: Answer) -> str:
    if not name:
        return "(not a node)"
    nodes = answer.found.names.get(name, [])
    called = f"{nodes[0]} " if len(nodes) == 1 else f"{counted(len(nodes), 'node')} " if nodes else ""
    return f"{called}({name.rpartition('/')[2]})"


def _table(title: str, sums: dict[str, Sum], top: int) -> list[str]:
    ordered = sorted(sums.items(), key=lambda item: (-abs(item[1].unexplained), item[0]))
    rows: list[Sequence[str]] = [(title, "metered", "billed", "unexplained", "")]
    for name, each in sorted(ordered[:top]) if title == "DAY" else ordered[:top]:
        sizes = (human(each.metered), human(each.billed), _signed(each.unexplained))
        rows.append((name, *sizes, _share(each.unexplained, max(each.billed, each.metered))))
    if rest := ordered[top:]:
        unexplained = _signed(sum(each.unexplained for _, each in rest))
        rows.append((f"{len(rest)} more", "", "", unexplained, ""))
    return fitted(rows, "<>>>>", (0,))


def _findings(answer: Answer) -> list[str]:
    found = list(_found(answer))
    return [*(line for fact in found for line in labelled("note", [fact], 6)), ""] if found else []


def _found(answer: Answer) -> Iterable[str]:
    currency, charges = answer.billed.currency, answer.billed.charges
    if (gap := answer.uneven) is not None:
        yield f"billed in and out differ by {100 * gap:.1f} %: within one account they are nearly equal"
    if answer.is_charged_wrongly:
        yield f"{_money(answer.cost, currency)} is charged, though Azure says that this transfer is free"
    if answer.billed.is_final is False:
        yield "the bill is not final: some of its lines have no invoice yet"
    for name, quantity in charges.items():
        yield f"{name}: {_money(quantity.cost, currency)} in {counted(quantity.lines, 'line')}, in no sum above"
    if far := ranked(answer.metered.far):
        names = ", ".join(f"{name} {human(size)}" for name, size in far[:3])
        yield f"far side not a node: {names}{', ...' if far[3:] else ''}; its charge is its own resource's"
    if answer.metered.relayed:
        yield f"relayed: {human(answer.metered.relayed)} of what was sent, billed once more for that leg"
    if not answer.billed.is_separable:
        yield "the bill does not say which way or between what: zones, public addresses and peering are one sum"
    if not answer.billed.names_resources:
        yield "the bill names no resources: what is not the cluster's cannot be told; export it with resource ids"


def _apart(answer: Answer) -> list[str]:
    apart = answer.billed.apart
    if not apart:
        return []
    rows = [("LISTED APART", "units", "billed")]
    for name, quantity in list(apart.items())[: answer.top]:
        rows.append((name, _units(quantity), _money(quantity.cost, answer.billed.currency)))
    return [*fitted(rows, "<>>", (0,)), ""]


def _units(quantity: Quantity) -> str:
    return f"{quantity.units:,.1f}" if quantity.units else human(quantity.bytes)


def _next(answer: Answer) -> list[str]:
    rows = commands("next", [command("cidrs suggest")] if answer.scopes.get("unknown", 0) else [], 7)
    if answer.rates:
        prose = "the same with --write-prices FILE, then report --prices FILE"
        rows += wrapped(prose, " " * 7 if rows else f"{'next':<7}", " " * 7)
    return rows


def _signed(size: int) -> str:
    return f"{'-' if size < 0 else '+' if size else ''}{human(abs(size))}"


def _share(part: int, whole: int) -> str:
    return f"{'-' if part < 0 else '+' if part else ''}{percent(abs(part), whole)}" if whole else ""


def _money(amount: Decimal, currency: str) -> str:
    return f"-{dollars(-amount, currency)}" if amount < 0 else dollars(amount, currency)
