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
