# SPDX-License-Identifier: Apache-2.0
"""What a filtered reading opens of a compacted hour, counted in bytes.

The flows are those of five minutes of the hour of which `make bench-archive` opens less than 5 %: of so few a page of
each column, and the footer, are already more.
"""

from pathlib import Path

import pytest

from bench.commands.archive_rows import make
from bench.commands.readers.archive import SPAN
from history.model.filters import Selection
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from tests.support.history.written import compact_all

NAMESPACES = 300


def read_bytes() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hour") / "archive"
    root.mkdir()
    make(root, 1, NAMESPACES, partitions=1)
    compact_all(root)
    return root


@pytest.mark.parametrize(
    "selection",
    [
        Selection(namespaces=["team-007"]),
        Selection(workloads=["team-007/web"]),
        Selection(addresses=["10.42.4.3"]),
        Selection(sources=["team-007/web"], ports=[8080]),
    ],
    ids=["a namespace", "a workload", "an address", "a source"],
)
def test_a_fraction_is_opened(archive: Path, selection: Selection) -> None:
    with ArchiveQuery(FlowArchive(str(archive)), SPAN) as query:
        [path] = query.chapter.paths
        before = read_bytes()
        assert sum(map(len, query.tables(selection))) > 50
        taken = read_bytes() - before
    size = (archive / path).stat().st_size
    assert taken < 0.35 * size, f"{100 * taken / size:.1f} %"


def test_nothing_but_the_filters_columns_is_opened_for_somebody_unknown(archive: Path) -> None:
    with ArchiveQuery(FlowArchive(str(archive)), SPAN) as query:
        [path] = query.chapter.paths
        before = read_bytes()
        assert not list(query.tables(Selection(pods=["team-007/nobody"])))
        assert read_bytes() - before < 0.15 * (archive / path).stat().st_size
