# SPDX-License-Identifier: Apache-2.0
"""A place is shown everywhere, so it holds no credential; what refuses one does not repeat it."""

import pytest

from common.input.locations import check_location, without_secrets
from common.settings import load
from history.range_settings import RangeSettings
from sinks.flowlog.settings import FlowlogSettings


@pytest.mark.parametrize(
    "location",
    [
        "/var/lib/zonemeter/flowlog",
        "a@b?c=d",
        "file:///var/lib/zonemeter",
        "s3://flows/zonemeter",
        "s3://flows/zonemeter?region=eu-west-1",
        "s3://flows?endpoint_override=[::1]:9000&scheme=http",
        "gs://flows/zonemeter",
        "abfss://box@account.dfs.core.windows.net/zonemeter",
    ],
)
def test_a_place_is_taken_as_it_is(location: str) -> None:
    assert check_location(location) == location


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://key:secret@flows/x", "s3://...@flows/x"),
        ("s3://key:se/cr?et@flows/x", "s3://...@flows/x"),
        ("s3://flows/x?access_key=secret", "s3://flows/x"),
        ("s3://flows/x?endpoint_override=key:secret@host:9000", "s3://...@host:9000"),
        ("s3://flows/x?endpoint_override=host/path", "s3://flows/x"),
        ("s3://flows/x?scheme=secret", "s3://flows/x"),
        ("gs://flows/x?region=secret", "gs://flows/x"),
        ("abfss://box:secret@account.dfs.core.windows.net/x", "abfss://...@account.dfs.core.windows.net/x"),
        ("abfss://box@account.dfs.core.windows.net/x?sig=secret", "abfss://...@account.dfs.core.windows.net/x"),
        ("https://flows.s3.amazonaws.com/x?X-Amz-Signature=secret", "https://flows.s3.amazonaws.com/x"),
    ],
)
def test_more_than_a_place_is_refused_and_not_repeated(location: str, shown: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        check_location(location)
    assert "secret" not in str(error.value)
    assert without_secrets(location) == shown


def test_a_command_and_the_flow_log_say_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for cls, words, flag in (FlowlogSettings, "run flowlog", "--output"), (RangeSettings, "report", "--archive"):
        with pytest.raises(SystemExit) as caught:
            load(cls, words, [flag, "s3://key:secret@flows/x", "--print-config"])
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        [line] = err.splitlines()
        assert "= 's3://...@flows/x': an @" in line
        assert "secret" not in out + line
