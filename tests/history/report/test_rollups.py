# SPDX-License-Identifier: Apache-2.0
"""`report`, `advise` and `changes` say the same from rollups of an archive as from its flows, and what they read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from history.advise import command as advise
from history.changes import command as changes
from history.model.time_range import rfc3339
from history.read.archive.opened import FlowArchive
from history.replay import command as replay
from history.report import command as report
from history.upkeep.expire import expire, stored_hours
from tests.history.conftest import Command
from tests.support.history.lived import Lived
from tests.support.history.written import HOUR_MS, compact_all


@pytest.fixture(scope="module")
def made_once(history: Lived, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = Path(shutil.copytree(history.archive, tmp_path_factory.mktemp("compacted") / "flows"))
    assert len(compact_all(archive)) == 2
    return archive


@pytest.fixture
def archive(made_once: Path, tmp_path: Path) -> Path:
    """The history's archive, compacted: two hours."""
    return Path(shutil.copytree(made_once, tmp_path / "flows"))


@pytest.fixture
def where(history: Lived, archive: Path) -> list[str]:
    """The flags of a day of whole hours that has the history in it."""
    hour = history.begin_ms // HOUR_MS * HOUR_MS
    span = ["--from", rfc3339(hour - 20 * HOUR_MS), "--to", rfc3339(hour + 2 * HOUR_MS)]
    return [*history.flags, *span, "--archive", str(archive)]


def document(command: Command, main: Callable[[list[str]], int], *argv: str) -> dict[str, Any]:
    status, out, err = command(main, *argv, "-o", "json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = orjson.loads(out)
    return found


@pytest.mark.parametrize(
    ("main", "asked"),
    [
        (report.main, []),
        (report.main, ["--by", "workload", "--per", "hour", "-n", "shop", "--port", "5432"]),
        (advise.main, ["--force"]),
        (changes.main, []),
    ],
    ids=["report", "showback", "advise", "changes"],
)
def test_the_answer_is_the_same_and_says_what_was_read(
    command: Command, where: list[str], archive: Path, main: Any, asked: list[str]
) -> None:
    found, wanted = (document(command, main, *where, *asked, *more) for more in ([], ["--no-rollups"]))
    if "sources" in found:
        assert found.pop("sources")[0].endswith(": rollups of 2 hours, flows of 0")
        assert ": rollups of" not in wanted.pop("sources")[0]
    assert found == wanted
    # Of the flows nothing was read.
    for path in archive.glob("flows/*/*/*"):
        path.write_bytes(b"")
    assert document(command, main, *where, *asked).get("flows") == wanted.get("flows")


def test_of_a_day_whose_flows_have_expired_less_can_be_asked_and_that_is_said(
    command: Command, where: list[str], archive: Path
) -> None:
    wanted = document(command, report.main, *where)
    replayed = command(replay.main, *where, "--sum", "-o", "json")
    opened = FlowArchive(str(archive))
    hours = stored_hours(opened)
    for hour in hours:
        expire(opened, hour)
    found = document(command, report.main, *where)
    assert found == wanted
    status, out, err = command(report.main, *where, "--by", "pod")
    assert (status, out) == (1, "")
    newest = f"flows/{hours[-1].name}"
    assert f"of this range, {newest} was deleted from it" in err
    assert "; its rollups are kept, and do not tell --by pod" in err
    assert command(replay.main, *where, "--sum", "-o", "json")[:2] == replayed[:2]


def test_of_an_hour_that_was_deleted_by_hand_beside_an_expired_one_no_rollups_are_kept(
    command: Command, where: list[str], archive: Path
) -> None:
    opened = FlowArchive(str(archive))
    older, newer = stored_hours(opened)
    expire(opened, older)
    shutil.rmtree(archive / "flows" / newer.name)
    for asked in ([], ["--by", "pod"]):
        _, out, err = command(report.main, *where, *asked)
        said = " ".join(f"{out} {err}".split())
        assert f"of this range, flows/{newer.name} was deleted from it, and perhaps what is older" in said
        assert "its rollups are kept" not in said
