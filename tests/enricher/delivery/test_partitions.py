# SPDX-License-Identifier: Apache-2.0
"""A partition that fails, in an enricher as a process: the others go on, it is said, and it comes back by itself."""

from pathlib import Path

import pytest

from tests.enricher.delivery.test_delivery import check_books, window
from tests.support.enricher.failing import PARTITION, POINTS
from tests.support.enricher.processes import Enricher, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import eventually, while_running


@pytest.mark.parametrize("point", POINTS)
def test_the_others_go_on_and_it_comes_back_by_itself(topics: Topics, tmp_path: Path, point: str) -> None:
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--kafka-deadline-seconds", "5"]
    fails, log = tmp_path / "fails", tmp_path / "log"
    raw, number = topics.settings.topics.raw, str(PARTITION)
    for partition in (0, 1, 2):
        topics.produce([window(10 * partition + n) for n in (1, 2, 3)], partition=partition)
    fails.touch()
    with while_running(Enricher(flags, log, ["tests.support.enricher.failing", point, str(fails)])) as enricher:
        eventually(lambda: out(topics) >= {1, 2, 3, 21, 22, 23})
        line = eventually(lambda: enricher.get("/readyz")[1].partition(f"{raw} partition {PARTITION}: ")[2])
        assert line.startswith("failing since 20")
        assert type(POINTS[point][3]).__name__ in line
        assert f"partition {PARTITION}:" not in line, "one line"
        eventually(lambda: enricher.metric("lag_records", number) == 3)
        assert "(3 records behind)" in enricher.get("/readyz")[1]
        topics.produce([window(24)], partition=2)
        eventually(lambda: 24 in out(topics))
        assert failing(enricher) == {("0", raw): 0, (number, raw): 1, ("2", raw): 0}
        fails.unlink()
        eventually(enricher.ready)
        eventually(lambda: enricher.metric("lag_records", number) == 0)
        assert set(failing(enricher).values()) == {0}
        assert enricher.terminate() == 0
    said = log.read_text()
    assert "starting again from what is committed" not in said
    assert sum('"partition":2' in line and "took over" in line for line in said.splitlines()) == 1
    check_books(topics, [1, 2, 3, 11, 12, 13, 21, 22, 23, 24], 3)


def test_where_all_partitions_fail_it_is_the_session(topics: Topics, tmp_path: Path) -> None:
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--group-instance-id", "one"]
    fails = tmp_path / "fails"
    fails.touch()
    topics.produce([window(1)], partition=PARTITION)
    with while_running(
        Enricher(flags, tmp_path / "log", ["tests.support.enricher.failing", "recovery-all", str(fails)])
    ) as enricher:
        eventually(lambda: "starting again from what is committed" in enricher.get("/readyz")[1])
        fails.unlink()
        eventually(lambda: len(topics.ledger()) == 1)
        eventually(enricher.ready)
    check_books(topics, [1], 3)


def failing(enricher: Enricher) -> dict[tuple[str, ...], float]:
    """Return what the metric says, by partition and topic."""
    return {labels: n for (name, labels), n in enricher.samples().items() if name == "zonemeter_partition_failing"}


def out(topics: Topics) -> set[int]:
    """Return the sequences of which the books are out."""
    return {int(id_.split("/")[-2]) for id_ in topics.ledger()}
