# SPDX-License-Identifier: Apache-2.0
"""How an audit is shown: as a table for people, as a dictionary for programs."""

from typing import Any

from rich.console import Console
from rich.table import Table

from audit.result import Audit, HopTotal
from replay.time_range import TimeRange, timestamp
from schemas.amount import Amount

HOP_TITLES = {
    "collector": "hook -> raw",
    "enricher": "raw -> enriched",
    "metrics": "enriched -> metrics",
    "flowlog": "enriched -> flow log",
}
LONGEST_LIST = 10


def print_table(audit: Audit, span: TimeRange, console: Console | None = None) -> None:
    """Print the answer, how far to trust it, and what is wrong with it, in at most 100 columns."""
    console = console or Console(width=100, highlight=False, soft_wrap=False)
    console.print(f"zonemeter audit   {span}")
    in_cluster = "" if audit.nodes_in_cluster is None else f" of {len(audit.nodes_in_cluster)} in the cluster"
    in_flight = f", {audit.in_flight} in flight (left out)" if audit.in_flight else ""
    console.print(f"nodes metered {len(audit.nodes_metered)}{in_cluster}     windows {audit.windows}{in_flight}")
    unmetered = (audit.nodes_in_cluster or set()) - audit.nodes_metered
    if unmetered:
        console.print(f"never metered in this range: {', '.join(sorted(unmetered))}")
    console.print(_table(audit))
    _print_faults(console, audit)
    verdict = "every byte is accounted for" if audit.closes else "the ledger does not close"
    if not audit.seen.bytes:
        verdict = "nothing was seen in this range: is a collector running? try a longer --since"
    console.print(f"ledger {audit.ratio:.6f}   {verdict}")


def as_dict(audit: Audit) -> dict[str, Any]:
    """Return the audit as plain JSON types; amounts are `{bytes, packets, rows}`."""
    return {
        "closes": audit.closes,
        "ratio": audit.ratio,
        "windows": audit.windows,
        "in_flight": audit.in_flight,
        "nodes": {
            "metered": sorted(audit.nodes_metered),
            "in_cluster": None if audit.nodes_in_cluster is None else sorted(audit.nodes_in_cluster),
        },
        "hops": {
            hop: {
                "in": _amount(total.taken),
                "out": _amount(total.given),
                "aside": {reason: _amount(amount) for reason, amount in sorted(total.aside.items())},
                "lost": {reason: _amount(amount) for reason, amount in sorted(total.lost.items())},
            }
            for hop, total in audit.hops.items()
        },
        "absent": audit.absent,
        "gaps": [{"node": g.node, "from_ms": g.from_ms, "to_ms": g.to_ms, "why": g.why} for g in audit.gaps],
        "shortfalls": [
            {"hop": s.hop, "window": s.window, "bytes": s.bytes, "packets": s.packets, "why": s.why}
            for s in audit.shortfalls
        ],
    }


def _table(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("hop")
    for title in ("bytes in", "packets in", "bytes out", "rows out"):
        table.add_column(title, justify="right")
    table.add_column("put aside, lost (bytes)")
    for hop, title in HOP_TITLES.items():
        if hop in audit.hops:
            total = audit.hops[hop]
            table.add_row(
                title,
                f"{total.taken.bytes:,}",
                f"{total.taken.packets:,}",
                f"{total.given.bytes:,}",
                f"{total.given.rows:,}",
                _reasons(total),
            )
        elif hop in audit.absent:
            table.add_row(title, "-", "-", "-", "-", "no such sink has reported")
    return table


def _reasons(total: HopTotal) -> str:
    aside = [f"{reason} {amount.bytes:,}" for reason, amount in sorted(total.aside.items()) if amount.packets]
    lost = [f"LOST {reason} {amount.bytes:,}" for reason, amount in sorted(total.lost.items()) if amount.packets]
    return ", ".join(lost + aside)


def _print_faults(console: Console, audit: Audit) -> None:
    for gap in audit.gaps[:LONGEST_LIST]:
        seconds = (gap.to_ms - gap.from_ms) / 1000
        console.print(f"unmeasured  {gap.node}  {timestamp(gap.from_ms)} for {seconds:.1f} s: {gap.why}")
    for short in audit.shortfalls[:LONGEST_LIST]:
        console.print(f"unaccounted  {short.hop}  {short.window}  {short.bytes:,} bytes: {short.why}")
    rest = len(audit.gaps[LONGEST_LIST:]) + len(audit.shortfalls[LONGEST_LIST:])
    if rest:
        console.print(f"and {rest} more; -o json lists them all")


def _amount(amount: Amount) -> dict[str, int]:
    return {"bytes": amount.bytes, "packets": amount.packets, "rows": amount.rows}
