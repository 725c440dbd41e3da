# SPDX-License-Identifier: Apache-2.0
"""An archive asked by its rollups: with late flows beside them, hours without any, hours that have expired, damage."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.model.evidence import Evidence
from history.model.filters import Selection
from history.model.party import Parties
from history.model.rollups import Hours
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive import limits
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.read.flow_sql import FlowQuery
from history.upkeep.expire import expire, stored_hours
from tests.support.history.written import BEGIN_MS, HOUR, HOUR_MS, Written, compact, compact_all
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id, node

SPAN = TimeRange(BEGIN_MS, BEGIN_MS + 48 * HOUR_MS)
SECOND = "date=2026-11-22/hour=23"


def cut(written: Written, sequence: int, hour: int) -> None:
    start = BEGIN_MS + hour * HOUR_MS + sequence * 10_000
    ends = [(API, POSTGRES), (POSTGRES, API), (API, EXTERNAL)]
    written.cut(
        1,
        [
            flow(id=flow_id(sequence, row), start_ms=start, end_ms=start + 10_000, source=source, destination=to)
            for row, (source, to) in enumerate(ends)
        ],
    )


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Three hours with three files each."""
    return three_hours(tmp_path / "archive")


def three_hours(root: Path, attribution_version: int = 0) -> Written:
    made = Written(root, attribution_version)
    for sequence in range(9):
        cut(made, sequence + 1, sequence // 3)
    return made


def test_a_corrected_archive_keeps_its_version_and_its_sums_from_rollups(tmp_path: Path) -> None:
    written = three_hours(tmp_path / "archive", attribution_version=7)
    rows, sums = written.rows(), asked(written.root)[0]
    assert {row["attribution_version"] for row in rows} == {7}
    compact_all(written.root)
    assert written.rows() == rows
    again, rollups, flows, _ = asked(written.root)
    assert (again, rollups, flows) == (sums, 3, 0)
    assert asked(written.root, rollups=False)[0] == sums
    assert FlowArchive(str(written.root)).attribution_version == 7


def test_an_archive_of_two_attributions_is_refused(tmp_path: Path) -> None:
    recorded, corrected = Written(tmp_path), Written(tmp_path, attribution_version=7)
    recorded.cut(0, [flow(id=flow_id(1, 0))])
    corrected.cut(1, [flow(id=flow_id(1, 0))])
    with pytest.raises(Refusal, match=r"its partitions are of attribution_version 0 and 7; .* a directory of its own$"):
        FlowArchive(str(tmp_path))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compacted") / "archive"
    three_hours(root)
    compact_all(root)
    return root


@pytest.fixture
def compacted(made_once: Path, tmp_path: Path) -> Path:
    """The same three hours with a file and a rollup each."""
    return Path(shutil.copytree(made_once, tmp_path / "archive"))


def asked(
    root: Path, selection: Selection | None = None, *, rollups: bool = True, span: TimeRange = SPAN
) -> tuple[dict[str, Any], int, int, str]:
    """Return the sums, how many rollups and files of flows were read, and what hour was gone."""
    parties, summary = PARTIES, Summary()
    with ArchiveQuery(FlowArchive(str(root)), span, Hours(span) if rollups else None) as query:
        query.summarise(parties, summary, selection or Selection())
        sums = {
            "traffic": dict(summary.traffic),
            "slots": dict(summary.slots),
            "flows": summary.flows,
            "metered": summary.metered_ms,
        }
        return sums, len(query.rollups), len(query.flows), query.deleted


PARTIES = Parties()


def test_hours_with_a_rollup_hours_without_and_late_flows(written: Written) -> None:
    wanted, *_ = asked(written.root, rollups=False)
    assert wanted["flows"] == 27
    compact(written.root)
    compact(written.root, hour=SECOND)
    assert asked(written.root) == (wanted, 2, 3, "")
    cut(written, 50, 0)
    wanted, *_ = asked(written.root, rollups=False)
    assert wanted["flows"] == 30
    assert asked(written.root) == (wanted, 2, 4, "")
    compact_all(written.root)
    assert asked(written.root) == (wanted, 3, 0, "")


@pytest.mark.parametrize(("selection", "times"), [(Selection(), 1), (Selection(scopes=["cross_zone"]), 2)])
def test_how_often_a_report_reads_what_is_there(
    written: Written, monkeypatch: pytest.MonkeyPatch, selection: Selection, times: int
) -> None:
    statements: list[str] = []
    stream = FlowQuery._stream

    def noted(query: FlowQuery, statement: str, parameters: Any) -> Any:
        statements.append(statement)
        return stream(query, statement, parameters)

    monkeypatch.setattr(FlowQuery, "_stream", noted)
    asked(written.root, selection)
    assert len(statements) == times


def test_what_is_told_of_the_range_and_of_what_is_wanted(tmp_path: Path) -> None:
    """Nodes and windows are those of the range and its clusters, whatever is wanted; regions are of all there is."""
    written = Written(tmp_path / "archive")
    ends: dict[str, Any] = {"source": API, "destination": POSTGRES}
    outer = {"source": node("node-a1", "a"), "destination": node("node-b1", "b"), "encapsulation": "vxlan"}
    for at, sequence in enumerate((0, 100, 359), start=1):
        start = BEGIN_MS + sequence * 10_000
        written.cut(
            0,
            [
                flow(id=flow_id(at, row), start_ms=start, end_ms=start + 10_000, **each)
                for row, each in enumerate((ends, outer, {**ends, "destination": EXTERNAL, "scope": "external"}))
            ],
        )
    span = TimeRange(BEGIN_MS, BEGIN_MS + HOUR_MS - 10_000)
    with ArchiveQuery(FlowArchive(str(written.root)), span) as query:
        query.summarise(PARTIES, summary := Summary(), Selection(scopes=["external"]))
        assert query.regions() == {"a": "eu-west-1", "b": "eu-west-1"}
    assert summary.windows == {(BEGIN_MS, BEGIN_MS + 10_000), (BEGIN_MS + 1_000_000, BEGIN_MS + 1_010_000)}
    assert summary.slots == {(BEGIN_MS, "external"): 1_000, (BEGIN_MS + 960_000, "external"): 1_000}
    assert (summary.observers, summary.clusters) == ({"node-a1"}, {"lab"})
    assert (summary.bytes, summary.outer_bytes) == (2_000, 0)
    with ArchiveQuery(FlowArchive(str(written.root)), span) as query:
        query.summarise(PARTIES, summary := Summary(), Selection())
    assert (summary.bytes, summary.outer_bytes) == (4_000, 2_000)
    with ArchiveQuery(FlowArchive(str(written.root)), span) as query:
        query.summarise(PARTIES, summary := Summary(), Selection(clusters=["other"]))
    assert not (summary.windows or summary.slots or summary.observers or summary.clusters or summary.bytes)


def test_of_a_part_of_an_hour_the_flows_are_read(compacted: Path) -> None:
    span = TimeRange(BEGIN_MS + 20_000, BEGIN_MS + 40 * HOUR_MS)
    wanted, *_ = asked(compacted, rollups=False, span=span)
    assert asked(compacted, span=span) == (wanted, 2, 1, "")


def test_of_an_hour_that_has_expired_the_rollups_tell_the_same(compacted: Path) -> None:
    wanted, *_ = asked(compacted, rollups=False)
    archive = FlowArchive(str(compacted))
    for hour in stored_hours(archive)[:2]:
        expire(archive, hour)
    assert asked(compacted) == (wanted, 3, 0, "")
    less, _, files, deleted = asked(compacted, rollups=False)
    assert (less["flows"], files, deleted) == (9, 1, f"flows/{SECOND}")
    span = TimeRange(BEGIN_MS + 20_000, BEGIN_MS + 40 * HOUR_MS)
    assert asked(compacted, span=span)[1:] == (2, 0, f"flows/{HOUR}")


def test_an_hour_that_somebody_deleted_has_no_rollups(compacted: Path) -> None:
    shutil.rmtree(compacted / "flows" / HOUR)
    found, *read = asked(compacted)
    assert (found["flows"], read) == (18, [2, 0, f"flows/{HOUR}"])


def test_a_compaction_after_rollups_were_found_makes_a_reader_begin_again(written: Written) -> None:
    compact_all(written.root)
    with ArchiveQuery(FlowArchive(str(written.root)), SPAN, Hours(SPAN)) as query:
        for sequence in range(50, 53):
            cut(written, sequence, 0)
        compact(written.root)
        with pytest.raises(ArchiveChanged):
            query.summarise(PARTIES, Summary(), Selection())


def _broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _without(column: str) -> Any:
    return lambda path: pq.write_table(pq.ParquetFile(path).read().drop_columns([column]), path)


def _nothing_in(column: str, rows: int | None = None) -> Any:
    def change(path: Path) -> None:
        table = pq.ParquetFile(path).read()
        at = table.schema.get_field_index(column)
        spoilt = len(table) if rows is None else rows
        values = [*[None] * spoilt, *table.column(at).to_pylist()[spoilt:]]
        pq.write_table(table.set_column(at, column, pa.array(values, table.schema.field(at).type)), path)

    return change


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        pytest.param(Path.unlink, 0, id="missing"),
        pytest.param(_broken, 1, id="cut short"),
        pytest.param(_without("bytes"), 0, id="no bytes"),
        pytest.param(_without("scope"), 1, id="no scopes"),
        pytest.param(_nothing_in("bytes"), 1, id="bytes null"),
        pytest.param(_nothing_in("flows"), 0, id="flows null"),
        pytest.param(_nothing_in("window_start", 1), 0, id="a time null"),
        pytest.param(_nothing_in("scope"), 0, id="scopes null"),
        pytest.param(_nothing_in("scope", 1), 1, id="a scope null"),
    ],
)
def test_a_damaged_rollup_is_an_error_of_one_line_that_names_it(compacted: Path, damage: Any, number: int) -> None:
    path = sorted(compacted.glob("rollups/*/*/*"))[number]
    damage(path)
    with pytest.raises(Refusal) as refusal:
        asked(compacted)
    assert str(path.relative_to(compacted)) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert asked(compacted, rollups=False)[0]["flows"] == 27


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("column", ["bytes", "packets", "window_start", "window_end", "scope"])
def test_a_flow_that_lacks_what_is_asked_for_is_an_error_of_one_line(compacted: Path, column: str, rows: int) -> None:
    path = next(compacted.glob("flows/*/*/*"))
    _nothing_in(column, rows)(path)
    with pytest.raises(Refusal, match=f"^[^\n]*{path.relative_to(compacted)} has rows without {column}[^\n]*$"):
        asked(compacted, rollups=False)
    with (
        pytest.raises(Refusal, match=f"has rows without {column}"),
        ArchiveQuery(FlowArchive(str(compacted)), SPAN) as query,
    ):
        list(query.tables(Selection()))


def test_a_file_of_the_size_that_its_manifest_says_is_not_looked_into_before_it_is_read(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Mock(wraps=limits.checked_footer)
    monkeypatch.setattr(limits, "checked_footer", looked)
    rows = len(written.rows())
    assert asked(written.root)[0]["flows"] == rows
    looked.assert_not_called()
    longer, *_ = sorted(written.root.glob("flows/*/*/*"))
    pq.write_table(pq.ParquetFile(longer).read(), longer)
    assert asked(written.root)[0]["flows"] == rows
    assert [call.args[1] for call in looked.call_args_list] == [str(longer.relative_to(written.root))]


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize(
    ("was", "damaged"),
    [
        pytest.param(b"window_start", b"window\xffstart", id="a name"),
        pytest.param(b"window_start", b"window-start", id="another column"),
        pytest.param(b"\x15\x02\x19", b"\xff\xff\xff", id="the beginning"),
        pytest.param(b"PAR1", b"PAR0", id="the end"),
    ],
)
def test_a_damaged_footer_of_the_same_size_is_an_error_of_one_line_that_names_the_file(
    written: Written, was: bytes, damaged: bytes, number: int
) -> None:
    path = sorted(written.root.glob("flows/*/*/*"))[number]
    content = path.read_bytes()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert was in content[begin:]
    path.write_bytes(content[:begin] + content[begin:].replace(was, damaged))
    readings: list[Callable[[ArchiveQuery], object]] = [
        lambda query: query.summarise(Parties(), Summary(), Selection()),
        lambda query: query.gather(Parties(), Evidence(SPAN), Summary(), Selection()),
        lambda query: list(query.tables(Selection())),
    ]
    for reading in readings:
        with (
            pytest.raises(Refusal, match=f"^archive [^\n]*: {path.relative_to(written.root)}:? [^\n]*$"),
            ArchiveQuery(FlowArchive(str(written.root)), SPAN) as query,
        ):
            reading(query)


@pytest.mark.parametrize("number", [0, 4])
def test_a_damaged_name_that_can_be_read_is_an_error_of_one_line_that_names_the_file(
    written: Written, number: int
) -> None:
    path = sorted(written.root.glob("flows/*/*/*"))[number]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"src_zone", b"src_zon%"))
    with pytest.raises(Refusal, match=f"^archive [^\n]*: {path.relative_to(written.root)} has a column [^\n]*$"):
        asked(written.root)


@pytest.mark.parametrize("rows", [None, 1])
def test_a_footer_that_does_not_say_so_helps_nobody(compacted: Path, rows: int) -> None:
    path = next(compacted.glob("flows/*/*/*"))
    _nothing_in("bytes", rows)(path)
    pq.write_table(pq.ParquetFile(path).read(), path, write_statistics=["window_start", "window_end", "scope"])
    with pytest.raises(Refusal, match=f"^[^\n]*{path.relative_to(compacted)}: a row has no bytes[^\n]*$"):
        asked(compacted, rollups=False)
