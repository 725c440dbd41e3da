# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from common.settings import KafkaSettings, ServiceSettings, load


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(["--listen", "foo"], "listen (--listen, ZONEMETER_LISTEN) = 'foo': expected HOST:PORT", id="port"),
        pytest.param(["--listen", ":65536"], "expected HOST:PORT", id="port too high"),
        pytest.param(["--listen", "fd41::1::9460"], "expected HOST:PORT", id="no address"),
        pytest.param(["--partitions", "0"], "partitions", id="range"),
        pytest.param(["--partitions", "many"], "valid integer", id="type"),
        pytest.param(["--cluster", "a/b"], 'must not contain "/"', id="slash"),
        pytest.param(["--colour", "blue"], "unrecognized arguments: --colour blue", id="unknown flag"),
        pytest.param(["--kafka-bootstap=x:1"], "did you mean --kafka-bootstrap? zonemeter run", id="near a flag"),
        pytest.param(["--print-confg"], "did you mean --print-config?", id="near a flag of all"),
        pytest.param(["--cluster=--"], "argument --cluster: expected a value, not --", id="two dashes"),
        pytest.param(["--cluster", "\udcff"], "expected UTF-8 text without NUL", id="no UTF-8"),
        pytest.param(["--cluster", "x" * 100_000], "at most 253 characters", id="long"),
        pytest.param(["--cluster"], "expected one argument", id="no value"),
        pytest.param(["--config", "/nonexistent"], "/nonexistent", id="no file"),
        pytest.param(["--kafka-bootstrap", "localhost"], "expected HOST:PORT", id="no port"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line_and_exit_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings, "run collector", argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert says in err
    assert (err.count("\n"), len(err) < 1_100) == (1, True)
    assert not out


def test_flags_before_variables_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zonemeter.toml"
    file.write_text(
        'cluster = "file"\nlog_level = "debug"\npartitions = 3\n[collector]\npartitions = 4\n[enricher]\nx = 1\n'
    )
    monkeypatch.setenv("ZONEMETER_LOG_LEVEL", "error")
    settings = load(ServiceSettings, "run collector", ["--config", str(file), "--listen", "[::1]:1"])
    assert (settings.cluster, settings.log_level, settings.partitions) == ("file", "error", 4)
    assert settings.listen == "[::1]:1"
    assert settings.kafka_bootstrap == "127.0.0.1:9092"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("192.0.2.7:1", "192.0.2.7:1"), ("fd41::11:1", "[fd41::11]:1"), ("[fd41::11]:1", "[fd41::11]:1"), (":1", ":1")],
)
def test_a_service_listens_at_an_address_as_kubernetes_gives_it_or_at_all(given: str, meant: str) -> None:
    assert load(ServiceSettings, "run collector", ["--listen", given]).listen == meant


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('clster = "x"', "clster: no setting that all services share"),
        ("[colector]", "table [colector]: expected one of"),
        ("[collector]\ncolour = 1", "[collector] colour: no such setting"),
        ("cluster", "not TOML"),
        ("x = " + "[" * 50_000, "nested too deeply"),
        ("x = " + "9" * 5_000, "not TOML: Exceeds the limit"),
        ("cluster = 'caf\udce9'", "UTF-8: byte 14 is 0xe9"),
        ("cluster = 'a\\u0000'".replace("'", '"'), "expected UTF-8 text without NUL"),
    ],
)
def test_a_file_with_an_error_is_one_line(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zonemeter.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings, "run collector", ["--config", str(file)])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert says in err
    assert (err.count("\n"), len(err) < 1_100) == (1, True)


def test_what_a_command_does_not_take_from_a_file_is_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "zonemeter.toml"
    file.write_text('since = "2m"\n')
    with pytest.raises(SystemExit):
        load(KafkaSettings, "report", ["--config", str(file)])
    assert capsys.readouterr().err.endswith("no setting that all services share; give a command's own as flags\n")
    for cls, says in ((KafkaSettings, "only what all services share is read"), (ServiceSettings, "and a key of the")):
        with pytest.raises(SystemExit):
            load(cls, "audit", ["--help"])
        assert says in " ".join(capsys.readouterr().out.split())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings, "run collector", ["--config", str(tmp_path)])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"zonemeter run collector: config = '{tmp_path}': Is a directory\n"


def test_print_config_shows_what_is_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings, "run collector", ["--cluster", "x", "--print-config"])
    assert caught.value.code == 0
    assert '"cluster": "x"' in capsys.readouterr().out
