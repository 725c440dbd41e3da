# SPDX-License-Identifier: Apache-2.0
"""The whole long form's results, as a section of docs/benchmarks.md."""

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.measure import report
from tests.torture.scenario import Result

HEAD = """
| what was done | times | flows | of them twice | in both sinks after: median, longest | took |  |
|---|---|---|---|---|---|---|
"""


def write(results: Sequence[Result], seed: int) -> None:
    """Rewrite the section."""
    report.PAGE.write_text(report.replaced(report.PAGE.read_text(), "torture", section(results, seed)))


def section(results: Sequence[Result], seed: int) -> str:
    """Return the section: a line for each kind of fault."""
    minutes = sum(result.seconds for result in results) / 60
    return "\n".join(
        [
            "## Torture: every fault, then the books",
            "",
            f"`make torture SEED={seed}`, {datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes, on {report.machine()}.",
            "",
            "What is done and what must hold afterwards: [delivery.md](delivery.md#make-torture). *of them twice*:",
            "records that stand in the enriched topic again after a fault; readers put them aside by their ids.",
            HEAD + "\n".join(_row(result) for result in results),
        ]
    )


def _row(result: Result) -> str:
    after = "-"
    if result.recoveries:
        after = f"{statistics.median(result.recoveries):.1f} s, {max(result.recoveries):.1f} s"
    verdict = "held" if result.fault is None else f"**failed**: {result.fault[:200].replace('|', '/')}"
    return (
        f"| {result.scenario} | {result.times} | {result.flows:,} | {result.repeated:,} | {after} | "
        f"{result.seconds:.0f} s | {verdict} |"
    )
