# SPDX-License-Identifier: Apache-2.0
"""`make bench-archive`: the flow log's files before and after compaction.

Twelve nodes, twelve partitions, a cut each five minutes; 40 namespaces of four pods that talk among themselves and to
ingress, DNS, monitoring and the internet, or 400. *Ours* is the archive after compaction, with all
manifests still there; the yardstick is the same rows as the flow log wrote them. CPU is that of the reading alone,
without the start of Python. A replay is of one namespace, or of a workload, a pod or an address of it. What it opens is
all that the process reads of files (`rchar` in /proc/self/io), manifests and each time a footer is read too, beside the
bytes of the data files. An hour of 150,000 flows has 1.2 MB, of which 5 % are 61 kB; its manifests, the compaction's
record and the footer, each read once, are more than that before the first flow, and the namespace's own flows half as
much again: it has no target. The rest of what is opened there is neighbours, in pages and in row groups of the columns
that have one page in each, and the footer a second time. With smaller pages or row groups no less is opened: what they
save, their headers and a larger footer take.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import duckdb

from bench.commands.archive_rows import CUTS_AN_HOUR, make
from bench.commands.readers.archive import FILTERS, SPAN
from bench.measure import report
from bench.measure.figure import Figure, Target
from bench.measure.reading import Took, read
from bench.measure.report import Table
from history.read.archive.files import hour_directories
from history.read.archive.limits import footer_bytes
from history.read.archive.opened import FlowArchive
from history.upkeep.compact import Compactor, Rule

_RULE = Rule(files=4, file_bytes=256 * 1024 * 1024)
_NAMESPACE = "team-007"
# Of a smaller hour the manifests, the record and the footer alone may be more than the target.
_LARGE = 1_000_000
_TEXT = (__doc__ or "").partition("\n\n")[2]


class Rig:
    """An archive as it was written, and a copy that was compacted."""

    def __init__(self, directory: Path, hours: int, namespaces: int) -> None:
        self.written, self.compacted = directory / "written", directory / "compacted"
        self.written.mkdir(parents=True)
        self.flows, self.hours = make(self.written, hours * CUTS_AN_HOUR, namespaces), hours
        shutil.copytree(self.written, self.compacted)
        began = time.process_time()
        self._compact(directory)
        self.compaction_seconds = time.process_time() - began

    def _compact(self, directory: Path) -> None:
        archive = FlowArchive(str(self.compacted))
        for hour in list(hour_directories(archive, SPAN)):
            spill = Path(tempfile.mkdtemp(dir=directory))
            Compactor(archive).compact(hour.removeprefix("flows/"), _RULE, spill)
            shutil.rmtree(spill)

    def files(self, where: Path) -> list[int]:
        """Return the sizes of the data files."""
        return [path.stat().st_size for path in where.glob("flows/*/*/*.parquet")]

    def listing_bytes(self) -> int:
        """Return what says which flows of the compacted hours are where: manifests, records and footers, each once."""
        records = (
            path for above in ("_manifests", "_compactions") for path in (self.compacted / above).rglob("*.json")
        )
        total = sum(path.stat().st_size for path in records)
        for path in self.compacted.glob("flows/*/*/*.parquet"):
            with path.open("rb") as source:
                total += footer_bytes(source)
        return total

    def one(self) -> dict[str, str]:
        """Return a value of each filter."""
        query = f"""
            SELECT src_namespace, src_namespace || '/' || src_workload, src_namespace || '/' || src_pod, src_address
            FROM read_parquet('{self.written}/flows/*/*/*.parquet') WHERE src_namespace = '{_NAMESPACE}' ORDER BY ALL
        """
        return dict(zip(FILTERS, duckdb.execute(query).fetchall()[0], strict=True))

    def compare(self, rounds: int, which: str, *value: str) -> list[list[Took]]:
        """Read both in turn; what came of it is the same."""
        found: list[list[Took]] = [[], []]
        for _ in range(rounds):
            for place, where in enumerate((self.compacted, self.written)):
                found[place].append(read("bench.commands.readers.archive", which, str(where), *value))
        assert len({took["rows"] for each in found for took in each}) == 1
        return found


def _size(rig: Rig) -> list[Figure]:
    ours, yardstick = rig.files(rig.compacted), rig.files(rig.written)
    files = [[len(each) / rig.hours] for each in (ours, yardstick)]
    bytes_a_flow = [[sum(each) / rig.flows] for each in (ours, yardstick)]
    cpu = [rig.compaction_seconds / rig.flows * 1e6]
    return [
        Figure("files an hour", "", files[0], files[1]),
        Figure("bytes a flow", "B", bytes_a_flow[0], bytes_a_flow[1]),
        Figure("compacting a million flows", "CPU s", cpu),
    ]


def _reading(rig: Rig, rounds: int) -> list[Figure]:
    figures = []
    written: list[list[float]] = []
    for which, title in {"plain": "a sum by DuckDB", "report": "a report"}.items():
        ours, yardstick = ([took["cpu_seconds"] for took in each] for each in rig.compare(rounds, which))
        figures.append(Figure(title, "CPU s", ours, yardstick))
        written.append(yardstick)
    figures.append(Figure("before compaction, a report beside a sum by DuckDB", "CPU s", written[1], written[0]))
    titles = dict(zip(FILTERS, ("a namespace", "a workload", "a pod", "an address"), strict=True))
    listing = 100 * rig.listing_bytes() / sum(rig.files(rig.compacted))
    figures.append(Figure("of the bytes, manifests, records and footers, each once", "%", [listing]))
    target = Target(5) if rig.flows >= _LARGE * rig.hours else None
    for which, value in rig.one().items():
        found = rig.compare(rounds, which, value)
        if which == "namespaces":
            ours, yardstick = ([took["cpu_seconds"] for took in each] for each in found)
            share = [100 * took["rows"] / rig.flows for took in found[0]]
            figures.append(Figure("of the flows, those of the namespace", "%", share))
            figures.append(Figure("a replay of a namespace", "CPU s", ours, yardstick))
        opened, before = (
            [100 * took["read_bytes"] / sum(rig.files(where)) for took in each]
            for where, each in zip((rig.compacted, rig.written), found, strict=True)
        )
        what = f"of the bytes, what a replay of {titles[which]} opens"
        figures.append(Figure(what, "%", opened, target=target))
        if which == "namespaces":
            figures.append(Figure("as the flow log wrote them", "%", before))
    return figures


def measure(rounds: int) -> Sequence[Table]:
    """Return the tables."""
    tables: list[Table] = []
    for title, hours, namespaces in (
        ("Six hours of 40 namespaces", 6, 40),
        ("An hour of 400 namespaces", 1, 400),
    ):
        with tempfile.TemporaryDirectory() as directory:
            rig = Rig(Path(directory), hours, namespaces)
            figures = [*_size(rig), *_reading(rig, rounds)]
        tables.append(Table(title, f"{rig.flows:,} flows. {_TEXT if not tables else ''}".strip(), figures))
    return tables


if __name__ == "__main__":
    sys.exit(report.main("archive", "The archive", measure))
