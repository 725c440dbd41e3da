# SPDX-License-Identifier: Apache-2.0
"""`zonemeter advise` against a real Kafka and a real flow log."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from history.advise import command as advise
from history.changes import command as changes
from history.report import command as report
from tests.history.conftest import Command, Ran
from tests.support.history.html import by_id, parsed, rows, text_of, values
from tests.support.history.lived import Lived

Run = Callable[..., Ran]


@pytest.fixture
def run(command: Command, history: Lived) -> Run:
    """Run `zonemeter advise` on all that there is."""
    return lambda *argv: command(advise.main, *history.flags, *history.span, *argv)


def document(ran: Ran) -> dict[str, Any]:
    status, out, err = ran
    assert (status, err) == (0, "")
    found: dict[str, Any] = orjson.loads(out)
    return found


def test_less_than_a_day_is_too_little(run: Run) -> None:
    status, out, err = run()
    assert (status, out) == (1, "")
    assert "5 m were metered" in err
    assert "--force" in err


def test_it_says_what_report_says_and_advises(run: Run, command: Command, history: Lived) -> None:
    found = document(run("--force", "-o", "json"))
    reported = document(command(report.main, *history.flags, *history.span, "-o", "json"))
    advice = found.pop("advice")
    assert {**found, "now": None} == {**reported, "now": None}
    assert advice["cross_zone"]["bytes"] == reported["scopes"]["cross_zone"]["bytes"]
    assert advice["spared_at_most"]["bytes"] <= advice["cross_zone"]["bytes"]
    status, out, err = run("--force")
    assert (status, err) == (0, "")
    assert out.startswith("zonemeter advise   cluster prod-eu")


def test_topic_and_archive_say_the_same(run: Run, history: Lived) -> None:
    topic = document(run("--force", "-o", "json"))
    archive = document(run("--force", "-o", "json", "--archive", str(history.archive)))
    assert topic["advice"] == archive["advice"]


@pytest.mark.parametrize("output", ["yaml", "markdown"])
def test_other_ways_to_print_it(run: Run, output: str) -> None:
    status, out, err = run("--force", "-o", output)
    assert (status, err) == (0, "")
    assert out.startswith("#")


def test_a_page_has_the_numbers_of_the_json(run: Run) -> None:
    found = document(run("--force", "-o", "json"))
    status, out, err = run("--force", "-o", "html")
    assert (status, err) == (0, "")
    shown = parsed(out)
    assert "What to change" in text_of(shown)
    pairs = [values(row) for row in rows(by_id(shown, "pairs"))]
    wanted = [[str(each["bytes"]), each["cost"], each["cost_per_month"]] for each in found["top_pairs"]]
    assert pairs[: len(wanted)] == wanted
    assert len(pairs) > len(wanted), "a page shows them all"
    assert values(next(shown.iter("dl")))[-1] == found["advice"]["cross_zone"]["cost_per_month"]


def test_a_finding_that_is_not_there_cannot_be_simulated(run: Run) -> None:
    status, out, err = run("--force", "--simulate", "99")
    assert (status, out) == (2, "")
    assert "simulate = 99: no finding has this number" in err


def test_without_a_topology_no_advice(run: Run, tmp_path: Any) -> None:
    (tmp_path / "states.json").write_text("[")
    status, out, err = run("--force", "--topology", str(tmp_path / "states.json"))
    assert (status, out) == (2, "")
    assert "expected a JSON array of topology states" in err


def test_changes_reads_the_same_range(command: Command, history: Lived) -> None:
    found = document(command(changes.main, *history.flags, *history.span, "-o", "json"))
    assert {each["subject"] for each in found["changes"]} <= {"shop/Deployment/web", "batch/Deployment/job"}
    status, out, err = command(changes.main, *history.flags, *history.span)
    assert (status, err) == (0, "")
    assert out.startswith("zonemeter changes   cluster prod-eu")
