# SPDX-License-Identifier: Apache-2.0
import pytest

from schemas.errors import DecodeError
from schemas.ids import Position, chunk_id, parse_chunk_id, parse_flow_id, parse_window_id, split_flow_id, window_id
from tests.support.builders import ORIGIN


def test_ids_come_apart_as_they_were_put_together() -> None:
    chunk = chunk_id(ORIGIN, 3, 8121, 2)
    assert parse_flow_id(f"{chunk}/57") == (ORIGIN, Position(3, 8121, 2, 57))
    assert split_flow_id(f"{chunk}/57") == (chunk, 57)
    assert parse_chunk_id(chunk) == (ORIGIN, Position(3, 8121, 2, 0))
    assert parse_window_id(window_id(ORIGIN, 3, 8121)) == (ORIGIN, Position(3, 8121, 0, 0))


def test_positions_compare_as_numbers() -> None:
    assert Position(1, 9, 0, 0) < Position(1, 10, 0, 0) < Position(2, 0, 0, 0)


@pytest.mark.parametrize(
    "text", ["", "a", "a/b/c/1/2/3", "a/b/c/1/2/3/x", "a/b/c/1/2/3/-1", "a/b/c/1/2/3/4/5", "/////²/"]
)
def test_what_is_no_flow_id_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_flow_id(text)


@pytest.mark.parametrize("zeros", ["00", "01", "007"])
@pytest.mark.parametrize("place", range(3, 7))
def test_an_id_has_one_text(zeros: str, place: int) -> None:
    """A second text would be another chunk where chunks are kept by id, and the same one where they are by number."""
    parts = f"{chunk_id(ORIGIN, 3, 8121, 2)}/57".split("/")
    parts[place] = zeros
    with pytest.raises(DecodeError, match="is not cluster/node/boot_id/generation/sequence"):
        parse_flow_id("/".join(parts))
    with pytest.raises(DecodeError):
        parse_chunk_id("/".join(parts[:6])) if place < 6 else split_flow_id("/".join(parts))
    if place < 5:
        with pytest.raises(DecodeError):
            parse_window_id("/".join(parts[:5]))


def test_zero_is_a_number() -> None:
    assert parse_flow_id(f"{chunk_id(ORIGIN, 0, 0, 0)}/0") == (ORIGIN, Position(0, 0, 0, 0))
    assert split_flow_id("a/b/c/0/0/0/0") == ("a/b/c/0/0/0", 0)
