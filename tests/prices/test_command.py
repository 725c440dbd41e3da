# SPDX-License-Identifier: Apache-2.0
"""`zonemeter prices list|check|explain`."""

from pathlib import Path

import orjson
import pytest

from prices import command
from prices.file import SHIPPED

MINE = (
    'title = "Mine"\ncurrency = "EUR"\nunit = "GB"\nas_of = 2026-11-01\n'
    '[[price]]\nscope = "cross_zone"\nsource = 0.5\ndestination = 0\nurl = "https://intranet/prices"\n'
)
REGIONAL = (
    '[[price]]\nscope = "cross_zone"\nsource_region = "ap-*"\n'
    'source = 0.008\ndestination = 0\nurl = "https://intranet/prices"\n'
)


def test_the_list_names_every_file_with_its_date_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.list_([]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert command.list_(["-o", "json"]) == 0
    books = orjson.loads(capsys.readouterr().out)
    assert [book["file"] for book in books] == list(SHIPPED)
    for book in books:
        assert book["as_of"] in text
        assert book["prices"][0]["url"] in text


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["eu-west-1a", "eu-west-1b"], 0, "1 TB (10^12 bytes) costs 20.00 USD; billed: sender and receiver"),
        (["europe-west1-b", "europe-west1-c"], 0, "1 TB (10^12 bytes = 931.32 GiB) costs 9.31 USD; billed: sender"),
        (["westeurope-1", "westeurope-2"], 0, "costs 0.00 USD; billed: nobody"),
        (["eu-west-1a", "eu-west-1a"], 0, "eu-west-1a -> eu-west-1a: same_zone"),
        (["eu-west-1a", "us-east-1a"], 1, "aws has no price for it: reported in bytes, never as free"),
        (["us-east-1a", "us-east-2a"], 0, "costs 10.00 USD; billed: sender"),
        (["eu-west-1a", "external"], 0, "1 TB (10^12 bytes) costs 50.00 to 90.00 USD; billed: sender"),
        (["eu-west-1a", "external"], 0, "by the month's amount, which a flow does not show"),
        (["external", "ap-south-1a"], 0, "assumed: what the far side on the internet is billed is not on your bill"),
        (["eu-west-1a", "eu-west-1b"], 0, "assumed: both sides are on your bill"),
        (
            ["eu-west-1a", "eu-west-1b", "--source-name", "db"],
            0,
            "the sender, db, is billed as any other end: no price",
        ),
        (["rack-1", "rack-2", "--prices", "gcp", "--scope", "cross_zone"], 0, "0.01 the sender, 0 the receiver"),
    ],
)
def test_explain(argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.explain(argv) == status
    text = capsys.readouterr().out
    assert said in text
    assert max(map(len, text.splitlines())) <= 110


def test_explain_takes_the_price_that_a_report_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flow has a region whatever the price file says of zones' names; so a price for a region is found here too."""
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("[[price]]", REGIONAL + "[[price]]"))
    assert command.explain(["ap-south-1a", "ap-south-1b", "--prices", str(path)]) == 0
    assert "source region ap-*: 0.008 the sender" in capsys.readouterr().out
    assert command.explain(["eu-west-1a", "eu-west-1b", "--prices", str(path)]) == 0
    assert "cross_zone: 0.5 the sender, 0 the receiver" in capsys.readouterr().out


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.explain(["eu-west-1a", "eu-west-1b", "-o", "json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert (found["scope"], found["file"], found["price"]["source"]) == ("cross_zone", "aws", "0.01")
    assert found["assumed"] == ["both sides are on your bill: the far side is not another account's"]
    assert command.explain(["eu-west-1a", "external", "-o", "json"]) == 0
    price = orjson.loads(capsys.readouterr().out)["price"]
    assert (price["source"], price["source_highest"], price["source_region"]) == ("0.05", "0.09", "eu-west-[123]")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["rack-1", "rack-2"], "are zones of no cloud known here; say --prices aws|azure|gcp|FILE"),
        (["rack-1", "rack-2", "--prices", "aws"], "do not show in their names; say --scope"),
        (["eu-west-1a", "eu-west-1b", "--prices", "/nonexistent"], "expected aws, azure, gcp or a file"),
        (["external", "external"], "both ends are external: such traffic is not the cluster's"),
        (["eu-west-1a"], "the following arguments are required"),
    ],
)
def test_explain_refuses(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.explain(argv)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    assert command.check([str(path)]) == 0
    text = capsys.readouterr().out
    assert "cross_zone: 0.5 the sender, 0 the receiver, EUR per GB" in text
    assert "external: no general price" in text
    path.write_text(path.read_text().replace("0.5", "-1").replace('"GB"', '"MB"'))
    assert command.check([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [f"{path}:3:", f"{path}:7:"]


def test_check_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SystemExit) as caught:
            command.check([str(path)])
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
