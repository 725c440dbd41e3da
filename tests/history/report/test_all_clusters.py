# SPDX-License-Identifier: Apache-2.0
"""`zonemeter report --all-clusters`: several topic prefixes, several archives, one answer."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from history.report import command as report
from tests.history.conftest import Command
from tests.support.history.copies import Copy, Records
from tests.support.history.lived import CLUSTER, Lived

OTHER = "prod-us"
Ask = Callable[..., dict[str, Any]]


def renamed(_: str, records: Records) -> Records:
    """Return the records as those of another cluster."""
    old, new = CLUSTER.encode(), OTHER.encode()
    return [replace(each, key=each.key.replace(old, new), value=each.value.replace(old, new)) for each in records]


@pytest.fixture
def copy(history: Lived, tmp_path: Path) -> Copy:
    """Another cluster with the same nodes, pods and traffic."""
    made = Copy(history, tmp_path / "copied")
    made.publish(renamed)
    return made


@pytest.fixture
def ask(command: Command, history: Lived, copy: Copy) -> Ask:
    """Run `zonemeter report` and return its document."""

    def run(*flags: str) -> dict[str, Any]:
        others = ["--other-clusters", f"{OTHER}={copy.topics.settings.topic_prefix}"]
        status, out, err = command(report.main, *history.flags, *history.span, *others, *flags, "-o", "json")
        assert (status, err) == (0, "")
        found: dict[str, Any] = orjson.loads(out)
        return found

    return run


def test_it_adds_up_to_what_each_cluster_has_and_asks_each_ledger(ask: Ask) -> None:
    one, both = ask(), ask("--all-clusters", "--by", "cluster")
    assert (one["clusters"], both["clusters"]) == ([CLUSTER], [CLUSTER, OTHER])
    for what in ("bytes", "flows", "overlay_outer_bytes", "nodes"):
        assert both[what] == 2 * one[what], what
    doubled = Counter({scope: 2 * facts["bytes"] for scope, facts in one["scopes"].items()})
    assert {scope: facts["bytes"] for scope, facts in both["scopes"].items()} == doubled
    sums = {line["name"]: (line["sent_bytes"], line["received_bytes"]) for line in both["by"]["sums"]}
    assert sums[CLUSTER] == sums[OTHER] > (0, 0)
    assert sum(sent for sent, _ in sums.values()) == both["bytes"]
    own, all_ = one["trust"], both["trust"]
    assert (own["ledger"], all_["ledger"]) == (1.0, 1.0)
    assert len(all_["nodes_metered"]) == 2 * len(own["nodes_metered"])
    assert f"{OTHER}/node-a1" in all_["nodes_metered"]


def test_one_of_them_is_asked_for_by_its_name(ask: Ask) -> None:
    one, other = ask(), ask("--all-clusters", "--cluster", OTHER)
    assert (other["clusters"], other["bytes"], other["trust"]["ledger"]) == ([OTHER], one["bytes"], 1.0)
    assert ask("--all-clusters", "--cluster", CLUSTER)["clusters"] == [CLUSTER]


def test_archives_beside_each_other(ask: Ask, history: Lived, copy: Copy, tmp_path: Path) -> None:
    shutil.copytree(history.archive, tmp_path / "own")
    shutil.move(copy.archive, tmp_path / OTHER)
    one, both = ask(), ask("--all-clusters", "--archive", str(tmp_path / "own"))
    assert both["bytes"] == 2 * one["bytes"]
    assert sum(str(tmp_path / name) in source for source in both["sources"] for name in ("own", OTHER)) == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--all-clusters"], "all_clusters needs other_clusters: NAME=TOPIC_PREFIX of each"),
        (["--other-clusters", "us"], "'us': expected NAME=TOPIC_PREFIX, for example, prod-us=zonemeter.us."),
        (["--other-clusters", "us=zonemeter."], "each cluster needs a topic prefix of its own"),
        (["--other-clusters", "us=a.,eu=a."], "'eu=a.': the name or the prefix is there twice"),
        (["--other-clusters", "us=a/b"], "expected NAME=TOPIC_PREFIX"),
        (["--other-clusters", "=a."], "expected NAME=TOPIC_PREFIX"),
        (["--other-clusters", "u/s=a."], "expected NAME=TOPIC_PREFIX"),
        (["--other-clusters", "us=a.,"], "expected NAME=TOPIC_PREFIX"),
    ],
)
def test_what_makes_no_sense_is_one_line(command: Command, flags: list[str], says: str) -> None:
    status, out, err = command(report.main, *flags)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("archive", "other"),
    [
        ("/var/flows/eu", "/var/flows/us"),
        ("flows/eu/", "flows/us"),
        ("eu", "./us"),
        ("s3://bucket/flows/eu?region=eu-west-1", "s3://bucket/flows/us?region=eu-west-1"),
        ("abfss://c@a.dfs.core.windows.net/eu", "abfss://c@a.dfs.core.windows.net/us"),
        (None, None),
    ],
)
def test_the_archive_beside_one(archive: str | None, other: str | None) -> None:
    assert report.beside(archive, "us") == other
