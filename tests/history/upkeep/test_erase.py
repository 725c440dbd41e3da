# SPDX-License-Identifier: Apache-2.0
"""Addresses are taken out of older flows, and nothing else; killed anywhere, an hour has them or it has not."""

import contextlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from history.model.filters import Selection
from history.model.party import Parties
from history.model.rollups import Hours
from history.model.summary import Summary
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep.addresses import Erasure, network_of
from history.upkeep.command import erase
from history.upkeep.command import main as compact_main
from history.upkeep.compact import Compactor, Rule
from history.upkeep.expire import expire, roll_up_late, stored_hours
from schemas.flow import Flow
from sinks.flowlog.stores.store import LocalStore
from tests.docs.printed.commands import ROOT
from tests.history.upkeep.conftest import Run
from tests.support.history.windows import flows, records
from tests.support.history.written import (
    BEGIN_MS,
    DAY,
    HOUR,
    HOUR_MS,
    Dying,
    Killed,
    Written,
    compact,
    compact_all,
    rows,
)
from tests.support.sinks.flows import EXTERNAL, flow, flow_id, node, other, pod

PERSONS = ["203.0.113.9", "198.51.100.77", "2001:db8:7:8::9", "::ffff:203.0.113.9", "fe80::1"]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Flows from and to the internet, a network of the CIDR map and an unknown address, in two hours."""
    made = Written(tmp_path / "archive")
    for hour in range(2):
        start_ms = BEGIN_MS + hour * HOUR_MS
        for sequence in range(3):
            some = flows(1, sequence + 10 * hour, start_ms=start_ms)
            ends = [other("external", address=each) for each in PERSONS]
            ends += [other("cidr", address="10.60.0.7", name="office"), other("unknown", address="10.99.0.1")]
            some += [
                flow(
                    id=flow_id(sequence + 10 * hour, 100 + row, "node-b1"),
                    start_ms=start_ms,
                    end_ms=start_ms + 10_000,
                    source=end if row % 2 else pod("web", "a"),
                    destination=pod("web", "a") if row % 2 else end,
                )
                for row, end in enumerate(ends)
            ]
            made.cut(1, some)
    return made


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0"),
        ("203.0.113.0", "203.0.113.0"),
        ("2001:db8:7:8::9", "2001:db8:7::"),
        ("::1", "::"),
        ("2002:cb00:7109::1", "2002:cb00:7100::"),
        ("not an address", None),
    ],
)
def test_the_network_of_an_address(address: str, network: str | None) -> None:
    assert network_of(address) == network


def expected(before: list[dict[str, Any]], keep: str) -> list[dict[str, Any]]:
    """Return the rows of before as they should be, of the first hour."""
    found = []
    for row in before:
        changed = dict(row)
        for side in ("src", "dst"):
            if row["window_start"].hour == 22 and row[f"{side}_kind"] not in ("pod", "node", "service"):
                address = row[f"{side}_address"]
                changed[f"{side}_address"] = network_of(address) if keep == "network" else None
        found.append(changed)
    return found


@pytest.mark.parametrize("keep", ["network", "nothing"])
@pytest.mark.parametrize("first", ["as written", "compacted"])
def test_older_flows_lose_their_addresses_and_nothing_else(written: Written, at: Run, keep: str, first: str) -> None:
    before, location = written.rows(), ["--archive", str(written.root), "--older-than", "30d"]
    if first == "compacted":
        compact(written.root)
    assert at(24 * 30, erase, *location, "--keep", keep)[:2] == (0, "nothing to do\n")
    assert written.rows() == before
    assert at(24 * 30 + 1.5, erase, *location, "--keep", keep, "--dry-run")[1].startswith(f"{HOUR}: would rewrite ")
    assert written.rows() == before
    status, out, err = at(24 * 30 + 1.5, erase, *location, "--keep", keep)
    assert (status, err) == (0, "")
    assert out.startswith(f"{HOUR}: ")
    assert written.rows() == expected(before, keep)
    assert b"203.0.113.9" not in _content(written.root)
    assert len(list(written.root.glob("rollups/*/hour=22/*"))) == 1
    assert at(24 * 30 + 1.5, erase, *location, "--keep", keep)[:2] == (0, "nothing to do\n")
    if keep == "network":
        assert at(24 * 30 + 1.5, erase, *location, "--keep", "nothing")[0] == 0
        assert written.rows() == expected(before, "nothing")


def said_to_be_erased(root: Path) -> list[tuple[object, ...]]:
    """Return what the documented query shows."""
    page = (ROOT / "docs/data-protection.md").read_text()
    [query] = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return sorted(duckdb.connect().execute(query.replace("/var/lib/zonemeter/flowlog", str(root))).fetchall())


def test_the_documented_query_shows_what_was_erased(written: Written, at: Run) -> None:
    compact(written.root)
    assert at(24 * 40, erase, "--archive", str(written.root), "--older-than", "30d", "--keep", "nothing")[0] == 0
    assert said_to_be_erased(written.root) == [
        (hour, "all", False, path)
        for hour in (HOUR, "date=2026-11-22/hour=23")
        for path in sorted([*written.files(), *rollup_files(written.root)])
        if hour in path
    ]


def test_the_documented_query_shows_the_rollups_of_what_expired(expired: Written, at: Run) -> None:
    assert at(24 * 40, erase, "--archive", str(expired.root), "--older-than", "30d", "--keep", "nothing")[0] == 0
    hours = [(path[len("rollups/") :].rpartition("/")[0], "all", True, path) for path in rollup_files(expired.root)]
    assert said_to_be_erased(expired.root) == hours
    assert len(hours) == 2


def test_flows_that_come_after_an_erasure_lose_their_addresses_too(written: Written, at: Run) -> None:
    location = ["--archive", str(written.root)]
    assert at(48, erase, *location, "--older-than", "1d")[0] == 0
    for sequence in range(5):
        written.cut(1, [flow(id=flow_id(900 + sequence), start_ms=BEGIN_MS, end_ms=BEGIN_MS + 1, destination=EXTERNAL)])
    assert at(48, compact_main, *location)[0] == 0
    assert any(row["dst_address"] == "203.0.113.9" for row in written.rows())
    assert at(48, erase, *location, "--older-than", "1d")[0] == 0
    assert not any("203.0.113.9" in (row["src_address"], row["dst_address"]) for row in written.rows())
    assert records(written.root)[-1].erased == "network"


def test_killed_at_any_step_an_hour_has_its_addresses_or_has_not(written: Written, tmp_path: Path) -> None:
    before, rule = written.rows(), Rule(0, 1 << 30, "all")
    after, at, over = expected(before, "nothing"), 0, False
    while not over:
        at += 1
        root = Path(shutil.copytree(written.root, tmp_path / f"copy-{at}"))
        store = Dying(FlowArchive(str(root)).store, at)
        try:
            compact(root, rule, store)
            over = store.calls < at
        except Killed:
            pass
        assert rows(str(root)) in (before, after), at
        compact(root, rule)
        assert rows(str(root)) == after, at
        shutil.rmtree(root)
    assert at > 6


def test_what_a_killed_erasure_left_of_compacted_files_goes_at_the_next_run(
    written: Written, at: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(written.root)
    compact(written.root, hour="date=2026-11-22/hour=23")
    location = ["--archive", str(written.root), "--older-than", "30d"]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(LocalStore, "delete", _killed)
        at(24 * 30 + 1.5, erase, *location)
    assert b"203.0.113.9" in _content(written.root)
    status, out = at(24 * 30 + 1.5, erase, *location)[:2]
    assert (status, out.splitlines()[-1]) == (0, "nothing to do"), "the lines before are those of the killed run"
    assert b"203.0.113.9" not in _content(written.root)
    assert not list(written.root.glob("_compactions/*/*/*.intent"))


def _killed(*_: object) -> None:
    raise Killed


def _content(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.glob("*/*/hour=22/*.parquet"))


@pytest.fixture
def expired(tmp_path: Path) -> Written:
    """Two hours whose flows expired; a node of the cluster talked to somebody, so that rollups have the address."""
    made = Written(tmp_path / "archive")
    for hour in range(2):
        for sequence in range(3):
            made.cut(1, talked(sequence + 10 * hour, BEGIN_MS + hour * HOUR_MS))
    compact_all(made.root)
    expire_all(made.root)
    return made


def talked(sequence: int, start_ms: int) -> list[Flow]:
    ends = enumerate([*PERSONS, "203.0.113.10"])
    return [
        flow(
            id=flow_id(sequence, row, "node-b1"),
            start_ms=start_ms,
            end_ms=start_ms + 10_000,
            source=node("node-b1", "b"),
            destination=msgspec.structs.replace(other("external", address=each), port=443),
            scope="external",
        )
        for row, each in ends
    ]


def expire_all(root: Path) -> None:
    archive = FlowArchive(str(root))
    for hour in stored_hours(archive):
        with tempfile.TemporaryDirectory() as spill:
            roll_up_late(archive, hour, Path(spill), BEGIN_MS)
        expire(archive, hour)


def rollup_files(root: Path) -> list[str]:
    """Return the rollups of hours."""
    return sorted(str(path.relative_to(root)) for path in root.glob("rollups/date=*/hour=*/*.parquet"))


def rollup_addresses(root: Path) -> set[str | None]:
    """Return what files of rollups hold, whether they count or not."""
    files = list(root.glob("rollups/*/*.parquet")) + list(root.glob("rollups/*/*/*.parquet"))
    return {address for path in files for address in pq.read_table(path)["dst_address"].to_pylist()}


def summed(root: Path) -> tuple[int, int]:
    """Return how many flows and bytes a report of the day comes to."""
    with ArchiveQuery(FlowArchive(str(root)), DAY, Hours(DAY)) as query:
        query.summarise(Parties(), summary := Summary(), Selection())
    return summary.flows, summary.bytes


@pytest.mark.parametrize("keep", ["network", "nothing"])
def test_rollups_of_flows_that_expired_lose_their_addresses_too(expired: Written, at: Run, keep: str) -> None:
    root, location = expired.root, ["--archive", str(expired.root), "--older-than", "30d"]
    assert at(48, compact_main, *location[:2], "--since", "30d")[1].startswith("nothing to do\n1 day")
    before = summed(root)
    assert before
    assert {*PERSONS} <= rollup_addresses(root)
    dry = at(24 * 40, erase, *location, "--keep", keep, "--dry-run")
    assert dry[1].splitlines()[-1] == "2 hours that expired: rollups would be rewritten"
    assert {*PERSONS} <= rollup_addresses(root)
    status, out, err = at(24 * 40, erase, *location, "--keep", keep)
    assert (status, err) == (0, "")
    assert f"{HOUR}: rewrote 1 rollup of flows that expired\n" in out
    assert out.splitlines()[-1] == "1 day rolled up", "again"
    left = {network_of(each) for each in PERSONS} if keep == "network" else {None}
    assert rollup_addresses(root) - {None} == left - {None}
    assert summed(root) == before
    assert at(24 * 40, erase, *location, "--keep", keep)[:2] == (0, "nothing to do\n")
    assert at(24 * 40, erase, *location, "--keep", "nothing")[0] == 0
    assert rollup_addresses(root) == {None}


def test_rollups_of_flows_that_lost_their_addresses_are_left_alone_once_they_expire(expired: Written, at: Run) -> None:
    location = ["--archive", str(expired.root)]
    expired.cut(1, talked(40, BEGIN_MS + 2 * HOUR_MS))
    assert at(48, erase, *location, "--older-than", "1h", "--keep", "nothing")[0] == 0
    expire_all(expired.root)
    assert at(48, erase, *location, "--older-than", "1h", "--keep", "nothing")[:2] == (0, "nothing to do\n")


@pytest.mark.parametrize("erasure", [None, "all"], ids=["compacted", "erased"])
def test_what_a_killed_rewrite_left_costs_no_rollup_when_its_hour_expires(
    tmp_path: Path, erasure: Erasure | None
) -> None:
    made = Written(tmp_path / "archive")
    for sequence in range(3):
        made.cut(1, talked(sequence, BEGIN_MS))
    compact(made.root, Rule(0, 1 << 30))
    if not erasure:
        made.cut(1, talked(30, BEGIN_MS))
    before, step, over = summed(made.root), 0, False
    while not over:
        step += 1
        root = Path(shutil.copytree(made.root, tmp_path / f"copy-{step}"))
        store = Dying(FlowArchive(str(root)).store, step)
        try:
            compact(root, Rule(0, 1 << 30, erasure), store)
            over = store.calls < step
        except Killed:
            pass
        expire_all(root)
        assert summed(root) == before, step
    assert step > 5


@pytest.mark.parametrize("late", ["none", "written", "compacted", "erased"])
def test_killed_at_any_step_rollups_have_their_addresses_or_have_not(
    expired: Written, tmp_path: Path, at: Run, late: str
) -> None:
    """`late`: flows that came after their hour had expired."""
    location = ["--older-than", "1h", "--keep", "nothing"]
    if late != "none":
        expired.cut(1, talked(30, BEGIN_MS))
    if late in ("compacted", "erased"):
        compact(expired.root, Rule(0, 1 << 30, "all" if late == "erased" else None))
    before, step, over = summed(expired.root), 0, False
    while not over:
        step += 1
        root = Path(shutil.copytree(expired.root, tmp_path / f"copy-{step}"))
        archive = FlowArchive(str(root))
        store = archive.store = Dying(archive.store, step)
        compactor = Compactor(archive)
        try:
            (tmp_path / f"spill-{step}").mkdir()
            compactor.clear_up(HOUR)
            compactor.erase_rollups(HOUR, "all", tmp_path / f"spill-{step}")
            over = store.calls < step
        except Killed:
            pass
        assert summed(root) == before, step
        at_once = Path(shutil.copytree(root, tmp_path / f"at-once-{step}"))
        expire_all(at_once)
        assert summed(at_once) == before, f"{step}: what came late expires before the next erasure"
        shutil.rmtree(at_once)
        assert at(48, erase, "--archive", str(root), *location)[0] == 0
        assert summed(root) == before, step
        assert rollup_addresses(root) == {None}
        assert b"203.0.113.9" not in _content(root)
        assert at(48, erase, "--archive", str(root), *location)[:2] == (0, "nothing to do\n")
        # The rollups still are of all flows, so they stay with the next that expires.
        expire_all(root)
        assert summed(root) == before, step
        shutil.rmtree(root)
    assert step > 5


def test_of_rollups_some_of_which_have_addresses_none_is_lost(tmp_path: Path, at: Run) -> None:
    """An hour has both where expiring it was killed before the records of before were gone."""
    made = Written(tmp_path / "archive")
    made.cut(1, talked(1, BEGIN_MS))
    compact(made.root, Rule(0, 1 << 30, "all"))
    made.cut(1, talked(30, BEGIN_MS))
    compact(made.root, Rule(0, 2))
    before = summed(made.root)
    for step in range(1, 8):
        root = Path(shutil.copytree(made.root, tmp_path / f"copy-{step}"))
        archive = FlowArchive(str(root))
        archive.store = Dying(archive.store, step)
        with contextlib.suppress(Killed):
            for hour in stored_hours(archive):
                expire(archive, hour)
        assert at(24 * 40, erase, "--archive", str(root), "--older-than", "30d", "--keep", "nothing")[0] == 0
        assert summed(root) == before, step
        assert rollup_addresses(root) == {None}


def test_what_is_not_an_address_is_taken_out_whole(tmp_path: Path, at: Run) -> None:
    made = Written(tmp_path / "archive")
    end = other("external", address="not an address")
    made.cut(1, [flow(start_ms=BEGIN_MS, end_ms=BEGIN_MS + 1, destination=end)])
    assert at(48, erase, "--archive", str(made.root), "--older-than", "1d")[0] == 0
    assert [row["dst_address"] for row in made.rows()] == [None]


def test_wrong_use_is_one_line(written: Written, at: Run) -> None:
    for flags, says in (
        ([], "older_than is not set"),
        (["--older-than", "soon"], "'soon' is not a duration"),
        (["--older-than", "30d", "--keep", "half"], "'network' or 'nothing'"),
    ):
        status, out, err = at(48, erase, "--archive", str(written.root), *flags)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert says in err
