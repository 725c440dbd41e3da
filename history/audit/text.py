# SPDX-License-Identifier: Apache-2.0
"""How an audit is shown: as lines of text for people, as a dictionary for programs. Pure.

First how far it can be trusted at all: which nodes were metered, and how much of what left them the hook saw.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import msgspec

from audit.result import Audit, Contradiction, Gap, HopTotal, Sums, covered
from common.amounts import columns, counted, duration, fitted, human, labelled, percent, shorten
from common.terminal import command
from history.audit.deep.facts import Deep
from history.model.time_range import TimeRange, timestamp
from schemas.amount import Amount
from schemas.flow import Scope

HOP_TITLES = {
    "collector": "hook -> raw",
    "enricher": "raw -> enriched",
    "metrics": "enriched -> metrics",
    "flowlog": "enriched -> flow log",
}
LONGEST_LIST = 10


def lines(
    audit: Audit,
    span: TimeRange,
    *,
    by: Literal["hop", "node"] = "hop",
    explained: Sequence[str] = (),
    deep: Deep | None = None,
) -> list[str]:
    """Return the answer, how far to trust it, and what is wrong with it; tables are as wide as the page."""
    found = [
        *labelled("zonemeter audit", [str(span)], 18),
        *_trust(audit),
        *(_node_table(audit) if by == "node" else _hop_table(audit)),
    ]
    for heading, entries in (
        ("unmeasured", _gaps(audit)),
        ("gone", _gone(audit)),
        ("clock", _clock_steps(audit)),
        ("unaccounted", _shortfalls(audit)),
        ("late", _late(audit)),
        ("explained", explained),
        ("repeat", _repeats(audit)),
        ("forged?", _forged(audit)),
        ("not ours", audit.refused),
        ("not counted", _unmetered(audit)),
    ):
        found += _list(heading, entries)
    if deep is not None:
        found += _deep(deep)
    return [*found, f"ledger {audit.ratio:.6f}   {_verdict(audit)}"]


def as_dict(audit: Audit, explained: Sequence[str] = (), deep: Deep | None = None) -> dict[str, Any]:
    """Return the audit as plain JSON types; amounts are `{bytes, packets, rows}`."""
    found: dict[str, Any] = {
        "closes": audit.closes,
        "ratio": audit.ratio,
        "windows": audit.windows,
        "in_flight": audit.in_flight,
        "late_windows": audit.late_windows,
        "late_bytes": dict(audit.late),
        "unaccounted_bytes": dict(audit.unaccounted),
        "unmeasured_seconds": audit.unmeasured_ms / 1000,
        "unmeasured_at_least": audit.unmeasured_at_least,
        "nodes": {
            "metered": sorted(audit.nodes_metered),
            "in_cluster": None if audit.nodes_in_cluster is None else sorted(audit.nodes_in_cluster),
        },
        "coverage": {
            node: {**msgspec.structs.asdict(each), "ratio": each.ratios()}
            for node, each in sorted(audit.coverage.items())
        },
        "hops": {hop: _hop(total) for hop, total in audit.hops.items()},
        "by_node": [
            {"cluster": cluster, "node": node, "windows": sums.windows, "ratio": sums.ratio, **_fates(sums)}
            for (cluster, node), sums in sorted(audit.nodes.items())
        ],
        "absent": audit.absent,
        "gaps": [asdict(each) for each in audit.gaps],
        "gone": [
            {
                "node": each.node,
                "before_ms": each.before_ms,
                "boot": each.origin.boot_id,
                "generation": each.generation,
                "last_sequence": each.last,
            }
            for each in audit.gone
        ],
        "clock_steps": [asdict(each) for each in audit.clock_steps],
        "shortfalls": [asdict(each) for each in audit.shortfalls],
        "explained": list(explained),
        "refused": audit.refused,
        "repeats": [
            {"chunk": r.chunk, "offset": r.offset, "announced": r.announced, **_amount(r.amount)}
            for r in audit.repeated
        ],
        "contradicted": [
            {
                "hop": c.hop,
                "id": c.id,
                "first": None if c.first is None else [_amount(amount) for amount in c.first],
                "later": [_amount(amount) for amount in c.later],
            }
            for c in audit.contradicted
        ],
        "interleaved_boots": audit.interleaved,
        "foreign_source": [
            {"node": node, "owner": owner, **_amount(amount)} for (node, owner), amount in sorted(audit.foreign.items())
        ],
        "unmetered_senders": {node: _amount(amount) for node, amount in sorted(audit.unmetered_senders().items())},
    }
    if deep is not None:
        found["deep"] = {
            "faults": len(deep.faults),
            "read": {source: _amount(amount) for source, amount in deep.read.items()},
            "findings": [{"source": f.source, "fault": f.is_fault, "what": f.what} for f in deep.findings],
        }
    return found


def _trust(audit: Audit) -> Iterable[str]:
    of = "" if audit.nodes_in_cluster is None else f" of {len(audit.nodes_in_cluster)} in the cluster"
    yield f"nodes metered {len(audit.nodes_metered)}{of}"
    unmetered = sorted((audit.nodes_in_cluster or set()) - audit.nodes_metered)
    if unmetered:
        yield f"never metered in this range: {', '.join(unmetered)}"
    yield f"coverage {coverage(audit)}{_worst(audit)}"
    in_flight = f", {audit.in_flight} in flight (left out)" if audit.in_flight else ""
    in_flight += f", {audit.late_windows} late (left out)" if audit.late_windows else ""
    time = unmeasured(audit, f"{audit.unmeasured_ms / 1000:.1f} s")
    yield f"windows {audit.windows}{in_flight}     unmeasured {time}"
    if audit.gone:
        nodes = counted(len({each.node for each in audit.gone}), "node")
        yield f"gone from the ledger: earlier windows of {nodes}, which are in no sum"


def unmeasured(audit: Audit, known: str) -> str:
    """Say how long nodes were not metered; `known`: the time that is known, in words."""
    if not audit.gaps:
        return "no time"
    if not audit.unmeasured_at_least:
        return known
    return f"at least {known}" if audit.unmeasured_ms else "a time that is not known"


def coverage(audit: Audit) -> str:
    """Say how much of what the uplinks sent and got the hook saw, over all nodes."""
    total = covered(audit.coverage.values())
    return ", ".join(f"{way} {_percent(ratio)}" for way, ratio in total.items()) or "unknown (no uplink sent anything)"


def trust_facts(
    audit: Audit | None,
    why_none: str,
    scopes: Mapping[Scope, int],
    observers: int,
    never: Collection[str] | None = None,
) -> list[str]:
    """Say how far what was metered can be trusted: of how many nodes how much, what was lost, what is not known.

    `why_none`: why there is no audit. `scopes`: the bytes metered. `never`: the nodes without a collector, if others
    than the audit knows of.
    """
    unknown = scopes.get("unknown", 0)
    share = f"unknown {percent(unknown, sum(scopes.values()))}" + (f" ({human(unknown)})" if unknown else "")
    if audit is None:
        return [share, f"nodes {observers} metered", why_none]
    of = "" if audit.nodes_in_cluster is None else f" of {len(audit.nodes_in_cluster)}"
    facts = [f"nodes {len(audit.nodes_metered)}{of} metered", f"coverage {coverage(audit)}"]
    facts += [f"ledger {audit.ratio:.6f}", share]
    nodes = counted(len({gap.node for gap in audit.gaps}), "node")
    time = unmeasured(audit, duration(audit.unmeasured_ms))
    facts.append(f"unmeasured {time} on {nodes}" if audit.gaps else "no time unmeasured")
    if names := (audit.nodes_in_cluster or set()) - audit.nodes_metered if never is None else never:
        facts.append(f"never metered: {shorten(', '.join(sorted(names)), 60)}")
    if audit.in_flight:
        facts.append(f"{counted(audit.in_flight, 'window')} under way")
    if audit.late_windows:
        facts.append(f"{counted(audit.late_windows, 'window')} late")
    if audit.mismatches:
        facts.append(f"THE LEDGER DOES NOT CLOSE: {human(audit.unaccounted_bytes)} unaccounted")
    return facts


def _worst(audit: Audit) -> str:
    """Name the node of which the hook saw least, unless it saw everything everywhere."""
    ratios = [(ratio, node, way) for node, each in audit.coverage.items() for way, ratio in each.ratios().items()]
    if not ratios or min(ratios)[0] == 1:
        return ""
    ratio, node, way = min(ratios)
    return f" (least: {node} {way} {_percent(ratio)})"


def _percent(ratio: float) -> str:
    return f"{math.floor(1000 * ratio) / 10:.1f} %"  # 100 only where it is all


def _hop_table(audit: Audit) -> list[str]:
    """Return a row for each hop, below it what it put aside and what it lost."""
    more = {hop: f"enriched -> {hop}" for hop in sorted(audit.hops.keys() - HOP_TITLES.keys())}
    rows: list[tuple[str, ...]] = [("hop", "bytes in", "packets in", "bytes out", "rows out")]
    below: list[list[str]] = [[]]
    for hop, title in (HOP_TITLES | more).items():
        if hop in audit.hops:
            total = audit.hops[hop]
            numbers = (total.taken.bytes, total.taken.packets, total.given.bytes, total.given.rows)
            rows.append((title, *(f"{number:,}" for number in numbers)))
            below.append(_left_out(total))
        elif hop in audit.absent:
            rows.append((title, "-", "-", "-", "-"))
            below.append(["   no report in this range yet"])
    table = columns(rows, "<>>>>")
    return [line for row, more_lines in zip(table, below, strict=True) for line in (row, *more_lines)]


def _left_out(total: HopTotal) -> list[str]:
    return [
        line
        for label, amounts in (("   lost (bytes)", total.lost), ("   put aside (bytes)", total.aside))
        for line in labelled(
            label, [f"{why} {each.bytes:,}" for why, each in sorted(amounts.items()) if each.packets], 22
        )
    ]


def _node_table(audit: Audit) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("node", "windows", "seen (bytes)", "coverage", "unmeasured s", "lost", "unaccounted"),
    ]
    unmeasured_ms: dict[str, int] = {}
    for gap in audit.gaps:
        unmeasured_ms[gap.node] = unmeasured_ms.get(gap.node, 0) + (gap.length_ms or 0)
    longer = {gap.node for gap in audit.gaps if gap.to_ms is None}
    for (_, node), sums in sorted(audit.nodes.items()):
        ratios = sums.coverage[node].ratios() if node in sums.coverage else {}
        seconds = unmeasured_ms.get(node, 0) / 1000
        lost = sum(amount.bytes for total in sums.hops.values() for amount in total.lost.values())
        rows.append(
            (
                node,
                f"{sums.windows:,}",
                f"{sums.seen.bytes:,}",
                _percent(min(ratios.values())) if ratios else "-",
                f"{'>= ' if audit.gaps_cut or node in longer else ''}{seconds:.1f}",
                f"{lost:,}",
                f"{sums.unaccounted_bytes:,}",
            )
        )
    return fitted(rows, "<>>>>>>", names=(0,))


def _gaps(audit: Audit) -> list[str]:
    return [f"{gap.node}  {timestamp(gap.from_ms)} for {_seconds(gap)}: {gap.why}" for gap in audit.gaps]


def _seconds(gap: Gap) -> str:
    if gap.length_ms is None:
        return "a time that is not known, by the node's clock less than nothing"
    return f"{gap.length_ms / 1000:.1f} s"


def _gone(audit: Audit) -> list[str]:
    return [
        f"{each.node}  before {timestamp(each.before_ms)}: counted, but "
        f"{'window 1' if each.last == 1 else f'windows 1 to {each.last}'} (boot {each.origin.boot_id}, generation "
        f"{each.generation}) not in the ledger: retention deleted it, or the topic was created again"
        for each in audit.gone
    ]


def _clock_steps(audit: Audit) -> list[str]:
    return [
        f"{each.node}  set {'forward' if each.step_ms > 0 else 'back'} by {abs(each.step_ms) / 1000:,.1f} s "
        f"in the window that ended at {timestamp(each.to_ms)}: what came before has the times of the clock as it was"
        for each in audit.clock_steps
    ]


def _shortfalls(audit: Audit) -> list[str]:
    return [f"{short.hop}  {short.window}  {short.bytes:,} bytes: {short.why}" for short in audit.shortfalls]


def _late(audit: Audit) -> list[str]:
    behind = f"it is behind, or stopped: {command('doctor --pipeline-only')} has the lag"
    return [f"{hop}  {size:,} bytes wait for it in Kafka; {behind}" for hop, size in sorted(audit.late.items())]


def _repeats(audit: Audit) -> list[str]:
    return [
        f"{each.chunk} came again at raw offset {each.offset}: {each.amount.bytes:,} bytes put aside"
        for each in audit.repeated
        if each.announced
    ]


def _forged(audit: Audit) -> list[str]:
    boots = [
        f"{node}: boots {', '.join(boots)} go on side by side: two machines of one name, or somebody writes in it"
        for node, boots in audit.interleaved.items()
    ]
    foreign = [
        f"foreign_source  {node} says it sent {amount.bytes:,} bytes from addresses of {owner}"
        for (node, owner), amount in sorted(audit.foreign.items())
    ]
    return boots + foreign + [_contradicted(each) for each in audit.contradicted] + _unannounced(audit)


def _contradicted(each: Contradiction) -> str:
    first = "something else" if each.first is None else _in_and_out(*each.first)
    return f"contradicted  {each.id}: {each.hop} said {first}, then {_in_and_out(*each.later)}; the first counts"


def _in_and_out(taken: Amount, given: Amount) -> str:
    return f"{taken.bytes:,} bytes in, {given.bytes:,} out"


def _unannounced(audit: Audit) -> list[str]:
    return [
        f"{each.chunk} came again at raw offset {each.offset} and does not say that it might: two wrote it, or a mirror"
        for each in audit.repeated
        if not each.announced
    ]


def _unmetered(audit: Audit) -> list[str]:
    return [
        f"{amount.bytes:,} bytes from {node}, which metered nothing; receivers put them aside as sender_in_cluster"
        for node, amount in sorted(audit.unmetered_senders().items())
    ]


def _list(heading: str, entries: Sequence[str]) -> list[str]:
    found = [f"{heading}  {entry}" for entry in entries[:LONGEST_LIST]]
    more = len(entries) - LONGEST_LIST
    return [*found, f"{heading}  and {more} more; -o json lists them"] if more > 0 else found


def _deep(deep: Deep) -> list[str]:
    read = [f"{source} {amount.rows:,} rows {amount.bytes:,} bytes" for source, amount in deep.read.items()]
    return [
        *labelled("read back", [*(read or ["nothing"]), f"{len(deep.faults)} faults"], 12),
        *_list("FAULT", [f"{each.source}: {each.what}" for each in deep.faults]),
        *_list("note", [f"{each.source}: {each.what}" for each in deep.findings if not each.is_fault]),
    ]


def _verdict(audit: Audit) -> str:
    if not audit.seen.bytes and not audit.late_windows:
        return "nothing was seen in this range: is a collector running? try a longer --since"
    if not audit.seen.bytes:
        return "no window has arrived everywhere yet"
    if not audit.closes:
        return "the ledger does not close"
    return "every byte is accounted for" + (", or waits in Kafka" if audit.late_windows else "")


def _hop(total: HopTotal) -> dict[str, Any]:
    return {
        "in": _amount(total.taken),
        "out": _amount(total.given),
        "aside": {reason: _amount(amount) for reason, amount in sorted(total.aside.items())},
        "lost": {reason: _amount(amount) for reason, amount in sorted(total.lost.items())},
    }


def _fates(sums: Sums) -> dict[str, Any]:
    return {"seen": _amount(sums.seen), "unaccounted_bytes": sums.unaccounted_bytes}


def _amount(amount: Amount) -> dict[str, int]:
    return msgspec.structs.asdict(amount)
