# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: rounds in turn, comparison by round, and one section of a page rewritten."""

import itertools
from pathlib import Path

import pytest

from bench.measure import report
from bench.measure.figure import Compare, Figure, Target, in_turn


def test_each_round_measures_both_and_the_first_round_does_not_count() -> None:
    clock = itertools.count()
    ours, yardstick = in_turn(3, lambda: float(next(clock)), lambda: float(next(clock)))
    # Rounds: (0, 1) thrown away, then the other way round, then again.
    assert (ours, yardstick) == ([3.0, 4.0, 7.0], [2.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("compare", "target", "line"),
    [
        pytest.param(
            Compare.RATIO,
            Target(0.6, at_least=True),
            "| w | 300 u | 400 u | 0.75 x (0.5 to 0.9) | >= 0.6 x | met |",
            id="ratio",
        ),
        pytest.param(
            Compare.DIFFERENCE,
            Target(-150),
            "| w | 300 u | 400 u | -100 u (-200 to -50.0) | <= -150 u | **missed** |",
            id="difference",
        ),
        pytest.param(Compare.RATIO, None, "| w | 300 u | 400 u | 0.75 x (0.5 to 0.9) |  |  |", id="no-target"),
    ],
)
def test_a_row_compares_round_by_round(compare: Compare, target: Target | None, line: str) -> None:
    figure = Figure("w", "u", [200.0, 300.0, 450.0], [400.0, 400.0, 500.0], compare, target)
    assert report.row(figure) == line


def test_a_row_without_a_yardstick() -> None:
    figure = Figure("w", "MB", [70.0, 81.0, 75.5], target=Target(80))
    assert report.row(figure) == "| w | 75.5 MB |  | 75.5 MB (70.0 to 81.0) | <= 80.0 MB | met |"


def test_only_the_section_of_that_name_is_written_anew() -> None:
    page = "# Page\n\nwords\n"
    page = report.replaced(page, "a", "## A\n\none\n")
    page = report.replaced(page, "b", "## B\n\ntwo\n")
    page = report.replaced(page, "a", "## A\n\nthree\n")
    assert page == (
        "# Page\n\nwords\n\n<!-- bench-a -->\n## A\n\nthree\n<!-- end of bench-a -->\n"
        "\n<!-- bench-b -->\n## B\n\ntwo\n<!-- end of bench-b -->\n"
    )


def test_a_missed_target_is_bad_news(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(rounds: int) -> list[report.Table]:
        figure = Figure("slow", "s", [2.0] * rounds, [1.0] * rounds, target=Target(1.5))
        return [report.Table("T", "text", [figure])]

    assert report.main("x", "X", measure, ["--rounds", "2", "--no-write"]) == 1
    assert "| slow | 2 s | 1 s | 2 x (2 to 2) | <= 1.5 x | **missed** |" in capsys.readouterr().out


def test_a_tables_pictures_are_written_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (page := tmp_path / "page.md").write_text("# Page\n")
    monkeypatch.setattr(report, "PAGE", page)
    assert report.main("x", "X", lambda _: [report.Table("T", "text", pictures={"x.svg": "<svg/>"})], []) == 0
    assert (tmp_path / "x.svg").read_text() == "<svg/>"
    assert "### T" in page.read_text()
    page.unlink()
    assert report.main("x", "X", lambda _: [report.Table("T", "text", pictures={"y.svg": ""})], ["--no-write"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]
