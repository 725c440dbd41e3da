# SPDX-License-Identifier: Apache-2.0
"""`make bench-forecast`: what `advise` says a change will save beside what it saved.

Each round is a whole `zonemeter demo` with acts of five minutes: real packets between the lab's nodes, the two mistakes
of the story found by `advise`, the printed manifests applied to the lab, and the second act measured. The forecast is
act one's traffic replayed by `--simulate`; the error is its distance from what crossed zones in act two. What is left
of it: new connections in act two, spread by chance over few end points, and its retransmissions are its own.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import report
from bench.measure.figure import Figure, Target
from bench.measure.report import Table

_ACT_SECONDS = 300
_MOST_PERCENT = 5.0
_SAID = re.compile(r"cross-zone ([\d.]+) -> ([\d.]+) MB/s, .*; forecast \S+, error ([\d.]+) %")
_LEDGER = re.compile(r"ledger +([\d.]+)")


def _round() -> tuple[float, float, float, float]:
    """Return MB/s across zones in act one and in act two, the forecast's error in percent, and the ledger's ratio."""
    command = [str(Path(sys.executable).with_name("zonemeter")), "demo", "--duration", str(2 * _ACT_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said, ledger = _SAID.search(done.stdout), _LEDGER.findall(done.stdout)
    if done.returncode or said is None or not ledger:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    before, after, error = map(float, said.groups())
    return before, after, error, float(ledger[-1])


def measure(rounds: int) -> Sequence[Table]:
    """Return the table."""
    before, after, errors, ratios = zip(*(_round() for _ in range(rounds)), strict=True)
    figures = [
        Figure("error of the forecast", "%", errors, target=Target(_MOST_PERCENT)),
        Figure("across zones in act one", "MB/s", before),
        Figure("across zones in act two", "MB/s", after),
        Figure("ledger", "", ratios, target=Target(1.0, at_least=True)),
    ]
    text = (__doc__ or "").partition("\n\n")[2]
    return [Table("Forecast and measurement", text, figures)]


if __name__ == "__main__":
    sys.exit(report.main("forecast", "The forecast of advise", measure))
