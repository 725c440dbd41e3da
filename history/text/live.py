# SPDX-License-Identifier: Apache-2.0
"""How a live window is shown: a table for people, one JSON object for programs."""

from typing import Any

from common.amounts import labelled, ranked
from history.model.time_range import timestamp
from history.read.live import LiveWindow
from history.text.summary import TOP_PAIRS, summary_lines
from prices.book import PriceBook


def as_lines(window: LiveWindow, prices: PriceBook | None = None, top: int = TOP_PAIRS) -> list[str]:
    """Return the window as lines of text, with the `top` greatest pairs."""
    lines = title(window)
    if window.late or window.refused:
        lines.append(f" {window.late:,} flows came too late to be shown, {window.refused:,} were not understood")
    return lines + summary_lines(window.summary, (window.end_ms - window.start_ms) / 1000, prices, top)


def title(window: LiveWindow, of_nodes: str = "", *more: str) -> list[str]:
    """Return the line above a window's table; its lag is "-" if it was over before anybody looked."""
    summary = window.summary
    unknown = 100 * summary.scopes.get("unknown", 0) / summary.bytes if summary.bytes else 0.0
    lag = "-" if window.lag_seconds is None else f"{window.lag_seconds:.1f} s"
    facts = [f"window {timestamp(window.start_ms)[11:]}-{timestamp(window.end_ms)[11:]} UTC"]
    facts += [f"nodes {len(summary.observers)}{of_nodes}", f"flows {summary.flows:,}", f"unknown {unknown:.1f} %"]
    return labelled("", [*facts, f"lag {lag}", *more], 0)


def as_dict(window: LiveWindow) -> dict[str, Any]:
    """Return the window as plain JSON types; amounts are bytes in the whole window."""
    summary = window.summary
    return {
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "lag_seconds": window.lag_seconds,
        "nodes": sorted(summary.observers),
        "flows": summary.flows,
        "late_flows": window.late,
        "refused_records": window.refused,
        "bytes": summary.bytes,
        "scopes": dict(sorted(summary.scopes.items())),
        "zones": [{"from": source, "to": to, "bytes": size} for (source, to), size in sorted(summary.zones.items())],
        "cross_zone_pairs": [pair._asdict() | {"bytes": size} for pair, size in ranked(summary.cross_zone_pairs)],
        "unknown": dict(sorted(summary.unknown.items())),
    }
