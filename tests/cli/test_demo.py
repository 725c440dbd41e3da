# SPDX-License-Identifier: Apache-2.0
"""What the demo says of its windows and its two acts; the demo itself is run by `make demo`."""

from pathlib import Path

import pytest

from cli.demo import keep
from cli.demo_story import Story
from history.model.party import Parties
from history.model.summary import Summary, Traffic
from history.read.live import LiveWindow
from history.text.live import title
from prices.file import shipped
from tests.support.sinks.flows import START_MS

WINDOW_MS = 10_000
MB = 1_000_000
PAIR = ("shop/StatefulSet/postgres", "shop/Deployment/api")


def window(number: int, sizes: dict[tuple[str, str], int], arrived_ms: int = 0) -> LiveWindow:
    """A window in which each pair of `namespace/Kind/name` sent so many bytes from zone a to zone b."""
    ends, summary = Parties(), Summary()
    for pair, size in sizes.items():
        source, destination = (
            ends.of(["pod", *_parts(name), None, "node-a1", zone, "r", None, None], broker=False)
            for name, zone in zip(pair, "ab", strict=True)
        )
        summary.traffic[Traffic("cross_zone", source, destination, received=False)] += size
    start = START_MS + number * WINDOW_MS
    return LiveWindow(start, start + WINDOW_MS, summary, arrived_ms)


def _parts(name: str) -> tuple[str, str, str, str]:
    namespace, kind, workload = name.split("/")
    return namespace, f"{workload}-0", kind, workload


def test_a_window_that_was_over_before_anybody_looked_has_a_title() -> None:
    assert title(window(0, {}), "/4", "act 1")[0].endswith("nodes 0/4   flows 0   unknown 0.0 %   lag -   act 1")
    assert "lag 0.2 s" in title(window(0, {}, START_MS + WINDOW_MS + 200), "/4", "act 1")[0]


def test_the_acts_are_compared_over_windows_that_lie_wholly_in_one() -> None:
    story = Story(shipped("aws"), WINDOW_MS)
    before, after = {PAIR: 90 * MB}, {PAIR: 25 * MB}
    story.left = 1 / 9
    story.begin_ms = START_MS + 1
    story.take(window(0, before))  # connections were still being opened
    story.take(window(1, before))
    story.take(window(2, before))
    story.change_ms = START_MS + 3 * WINDOW_MS + 1
    between = window(3, before)
    assert story.act_of(between) == "between the acts"
    story.take(between)
    story.changed_ms = START_MS + 4 * WINDOW_MS
    story.take(window(4, after))
    assert [act.windows for act in story.acts] == [2, 1]
    # 9 MB/s for 730 h are 23,652 GB, at 0.02 $; of them act two ends 8 MB/s.
    assert story.lines()[0] == "cross-zone 9.0 -> 2.5 MB/s, $473 -> $131 a month; forecast $53, error 60.0 %"


def test_an_act_without_a_whole_window_is_not_compared() -> None:
    story = Story(shipped("aws"), WINDOW_MS)
    assert story.lines() == []
    story.begin_ms = START_MS
    story.take(window(0, {PAIR: MB}))
    assert story.lines() == ["act two did not begin: nothing to compare"]
    story.changed_ms = START_MS + WINDOW_MS
    assert story.lines() == ["an act had no whole window of 10 s: nothing to compare"]


def test_the_flow_log_of_a_demo_is_kept_beside_what_is_there(tmp_path: Path) -> None:
    """Also beside somebody's own demo/flows, and that of a demo begun in the same second."""
    logs, into = tmp_path / "lab", tmp_path / "demo"
    (into / "flows").mkdir(parents=True)
    (into / "flows" / "mine").write_text("mine")
    logs.mkdir()
    kept = []
    for number in range(2):
        (logs / "rows").write_text(str(number))
        kept.append(keep(logs, into, 1_767_225_600_000))
    assert [path.name for path in kept] == ["flows-20260101T000000Z", "flows-20260101T000000Z-2"]
    assert [(path / "rows").read_text() for path in kept] == ["0", "1"]
    assert (into / "flows" / "mine").read_text() == "mine"


def test_where_it_cannot_be_kept_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(OSError, match="demo"):
        keep(tmp_path / "lab", tmp_path / "demo", START_MS)
