# SPDX-License-Identifier: Apache-2.0
"""One wrong bit in a page of a file: audit --deep names the file, and nothing that stands in its place keeps it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.audit.deep.archive import read_archive
from history.audit.deep.facts import Facts, Wanted
from history.audit.deep.rollups import check_rollups
from history.read.archive.limits import DAMAGED, check_pages
from history.read.archive.opened import FlowArchive
from history.upkeep.expire import expire, stored_hours
from tests.support.history.long_rollups import SPAN, roll_up
from tests.support.history.windows import flows
from tests.support.history.written import DAY, HOUR, HOUR_MS, Written, compact, compact_all
from tests.support.history.wrong_bits import is_read, make_silently_wrong, wrong


@pytest.fixture
def written(tmp_path: Path) -> Written:
    made = Written(tmp_path / "archive")
    for hour in range(2):
        for sequence in range(1, 4):
            made.cut(1, flows(1, sequence + hour * HOUR_MS // 10_000, 20))
    return made


def test_a_wrong_bit_of_a_page_is_found_or_changes_nothing(written: Written) -> None:
    [path, *_] = written.files()
    true, silent, archive = is_read(written.root / path), 0, FlowArchive(str(written.root))
    for _ in wrong(written.root / path):
        try:
            check_pages(archive, [path])
        except DAMAGED as error:
            assert str(error).startswith(f"{path}: ")
            found = is_read(written.root / path)
            silent += found is not None and not found.equals(true)
        else:
            assert pq.ParquetFile(written.root / path).read().equals(true)
    assert silent


def test_what_is_read_wrong_is_not_compacted(written: Written) -> None:
    files = written.files()
    make_silently_wrong(written.root / files[0])
    with pytest.raises(Refusal, match=rf"{files[0]}: .*checksum"):
        compact(written.root, hour=HOUR)
    assert written.files() == files


def test_audit_deep_names_the_file_whichever_column_is_wrong(written: Written) -> None:
    [done, *_] = compact_all(written.root)
    make_silently_wrong(written.root / done.after[0].path)
    facts = Facts(1, Wanted(DAY))
    read_archive(str(written.root), facts)
    assert [each.what for each in facts.findings if "cannot be read" in each.what]


def test_a_rollup_that_is_read_wrong_becomes_no_days_rollup(written: Written, tmp_path: Path) -> None:
    compact_all(written.root)
    rollup = next(written.root.glob("rollups/*/*/*.parquet"))
    make_silently_wrong(rollup)
    with pytest.raises(DAMAGED, match="checksum"):
        roll_up(written.root, tmp_path, "day")
    assert not [*written.root.glob("rollups/*/*.parquet")]


def test_audit_deep_names_a_rollup_that_is_read_wrong_though_its_flows_expired(written: Written) -> None:
    compact_all(written.root)
    archive = FlowArchive(str(written.root))
    for hour in stored_hours(archive):
        expire(archive, hour)
    assert [*check_rollups(str(written.root), SPAN)] == []
    rollup = next(written.root.glob("rollups/*/*/*.parquet"))
    make_silently_wrong(rollup)
    [found] = check_rollups(str(written.root), SPAN)
    assert found.what.startswith(f"{rollup.relative_to(written.root)} cannot be read: ")
