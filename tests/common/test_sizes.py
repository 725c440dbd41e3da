# SPDX-License-Identifier: Apache-2.0
"""A size is read from end to end, or refused: one read in part would be a size that nobody meant."""

import pytest
from pydantic import TypeAdapter, ValidationError

from common.input.sizes import Size
from common.settings import load
from history.upkeep.settings import ExpireSettings

SIZE: TypeAdapter[int] = TypeAdapter(Size)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("512MiB", 512 << 20),
        ("512mib", 512 << 20),
        ("1.5 GB", 1_500_000_000),
        (".5GiB", 1 << 29),
        (" 1k ", 1000),
    ],
)
def test_a_size_is_what_it_says(text: str, size: int) -> None:
    assert SIZE.validate_python(text) == size


@pytest.mark.parametrize(
    "text", ["1,5TiB", "1 500 MB", "5.GiB", "1e9", "1TiB/2", "-1", "", "MiB", "1Ti", "1MiB1", "٣MiB"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        SIZE.validate_python(text)


def test_a_comma_does_not_leave_one_byte_of_the_archive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(ExpireSettings, "archive expire", ["--archive", "/", "--max-size", "1,5TiB"])
    line = "max_size (--max-size, ZONEMETER_MAX_SIZE) = '1,5TiB': expected a size, for example, 512MiB or 1.5GB"
    assert line in capsys.readouterr().err
