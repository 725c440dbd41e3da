# SPDX-License-Identifier: Apache-2.0
import time

import orjson
import pytest

from common.kafka.publish import Record
from history import dead_letters
from schemas.dead_letter import dead_letter
from tests.support.cli.records import publish
from tests.support.sinks.topics import Topics

RUBBISH = b"\x00\xff not \x1b[31mJSON"


@pytest.fixture
def filled(topics: Topics) -> Topics:
    now_ms = time.time_ns() // 1_000_000
    old = dead_letter("not_json", "old", "metrics", "enriched", 1, 3, 0, b"k", b"old")
    new = dead_letter("schema_mismatch", "a \x1b[31mred\n line", "enricher", "raw", 2, 7, now_ms, b"node-a1", RUBBISH)
    empty = dead_letter("empty", "no value", "enricher", "raw", 2, 8, now_ms, None, None)
    letters = [(now_ms - 48 * 3_600_000, old), (now_ms, new), (now_ms, empty)]
    topic = topics.settings.topics.dead_letter
    publish(topics.settings, [Record(topic, 0, b"k", value, at_ms) for at_ms, value in letters])
    return topics


def test_a_day_by_default_and_nothing_that_a_terminal_obeys(filled: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main(filled.flags) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    first, detail, *_, last = out.splitlines()
    assert first.split()[0] == "1"
    assert first.endswith(f"enricher  schema_mismatch  node-a1  raw 2@7  {len(RUBBISH)} bytes")
    assert detail.strip() == "a ?[31mred? line"
    assert last.startswith("2 dead letters")


def test_only_those_that_are_asked_for(filled: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, numbers in (
        (["--node", "node-a1"], [1]),
        (["--reason", "empty"], [2]),
        (["--refused-by", "metrics", "--since", "3d"], [0]),
        (["--node", "nobody"], []),
    ):
        assert dead_letters.main([*filled.flags, *flags, "-o", "json"]) == 0
        assert [orjson.loads(line)["number"] for line in capsys.readouterr().out.splitlines()] == numbers


def test_what_is_no_dead_letter_is_named_and_hides_nothing(filled: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    topic = filled.settings.topics.dead_letter
    publish(filled.settings, [Record(topic, 0, b"k", b"rubbish", time.time_ns() // 1_000_000)])
    assert dead_letters.main(filled.flags) == 0
    out = capsys.readouterr().out
    assert f"is in {topic} and is not a dead letter" in out
    assert out.splitlines()[-1].startswith("3 dead letters: schema_mismatch 1, empty 1, not_json 1; --show")


def test_json_lines_of_a_range(filled: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main([*filled.flags, "--from", "now-3d", "--to", "now-1d", "-o", "json"]) == 0
    (letter,) = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (letter["number"], letter["reason"], letter["refused_by"], letter["offset"]) == (0, "not_json", "metrics", 3)
    assert "value" not in letter


def test_a_value_comes_out_byte_by_byte(filled: Topics, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert dead_letters.main([*filled.flags, "--show", "1"]) == 0
    assert capfdbinary.readouterr().out == RUBBISH


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(["--show", "3"], "no such dead letter; 0 to 2 are kept", id="beyond the end"),
        pytest.param(["--show", "2"], "had no value", id="no value"),
        pytest.param(["--show", "-1"], "greater than or equal to 0", id="negative"),
        pytest.param(["--since", "1h", "--from", "now-1h"], "both name the start", id="two starts"),
        pytest.param(["--kafka-bootstrap", "127.0.0.1:1"], "127.0.0.1:1", id="no Kafka"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    argv: list[str], says: str, filled: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        dead_letters.main([*filled.flags, *argv])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1


def test_none_is_no_fault(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main(topics.flags) == 0
    assert capsys.readouterr().out.startswith("no dead letters")
