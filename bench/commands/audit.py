# SPDX-License-Identifier: Apache-2.0
"""`make bench-audit`: what a window costs to reconcile, by the number of nodes.

The ledger of a made-up cluster in which every byte arrives, of usual nodes: each flips every 10 s and publishes a chunk
of 35 rows, 11 of which came from as many other nodes, as the enricher's entry says by name; the metrics sink has an
entry a window and partition, the flow log one a cut (at a million flows, or after five minutes). Twelve partitions. A
window has been taken once all that its hops say of it is decoded, checked, reconciled and added up, as `zonemeter
audit` does; Kafka is not in it. The yardstick decodes the same entries, and no more. A check is what the audit's
service does every 10 s, with the windows open that wait for the flow log's next file, and an hour of sums. As stored:
batches of one partition and round, zstd, beside the same keys and values as they are: an entry names its node three
times, for those that read it alone, and that costs next to nothing in a batch of many. How the work grows is counted by
tests/audit/test_growth.py.
"""

import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cramjam

from bench.commands import ledger
from bench.measure import report
from bench.measure.figure import Figure
from bench.measure.reading import Readings
from bench.measure.report import Table

# Nodes, and windows of each.
_SIZES = ((10, 360), (100, 360), (1_000, 90), (5_000, 60))


def measure(rounds: int) -> Sequence[Table]:
    """Return the table."""
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        for nodes, windows in _SIZES:
            path = Path(directory) / f"{nodes}"
            ledger.write(path, nodes, windows)
            readings = Readings("bench.commands.readers.audit", str(path))
            taken = [(readings.ours(), readings.yardstick()) for _ in range(rounds)]
            ours, yardstick = ([spent / (nodes * windows) * 1e6 for spent in each] for each in zip(*taken, strict=True))
            figures += [
                Figure(f"{nodes:,} nodes: a window", "us", ours, yardstick),
                Figure(f"{nodes:,} nodes: resident at most", "MB", [took["peak_mb"] for took in readings.taken]),
                Figure(f"{nodes:,} nodes: a check", "CPU s", [took["check_seconds"] for took in readings.taken]),
                Figure(f"{nodes:,} nodes: a window as stored", "B", *_bytes(path, nodes * windows)),
            ]
    return [Table("By the number of nodes", (__doc__ or "").partition("\n\n")[2], figures)]


def _bytes(path: Path, windows: int) -> tuple[list[float], list[float]]:
    """Return what a window's entries take in batches of a partition and a round, and encoded."""
    stored = encoded = 0
    for _, batch in itertools.groupby(ledger.read(str(path)), key=lambda entry: entry.end_ms):
        of: dict[int, bytes] = defaultdict(bytes)
        for entry in batch:
            of[entry.partition] += entry.key + entry.value
        encoded += sum(map(len, of.values()))
        stored += sum(len(cramjam.zstd.compress(each)) for each in of.values())
    return [stored / windows], [encoded / windows]


if __name__ == "__main__":
    sys.exit(report.main("audit", "The audit", measure))
