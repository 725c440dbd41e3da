# SPDX-License-Identifier: Apache-2.0
"""What another process had given out of a chunk already: taken, or refused, and not given out again."""

from typing import Any

import msgspec
import orjson
import pytest

from enricher.delivery.outgoing.recovery import read_back
from enricher.delivery.outgoing.unit import ChunkRun, not_out
from enricher.join.join import Out
from schemas.amount import Amount
from schemas.errors import DecodeError
from schemas.ledger import decode_ledger
from tests.support.enricher.build import END, START, chunk, row
from tests.support.enricher.joined import A1, A2, B1, WRITER, joined, out_of


def test_resumed_after_any_row_the_books_are_the_same() -> None:
    rows = [row(A1, B1, bytes=100 + i) if i % 3 else row(B1, A1, direction=1, bytes=7 + i) for i in range(10)]
    raw = chunk(rows)
    whole = joined(rows)
    entry = decode_ledger(WRITER.enriched(raw, whole, None, END).value)
    for cut in range(len(whole.values) + 1):
        out = out_of(whole.values[:cut])
        rest = joined(rows, out)
        assert list(whole.values[cut:]) == list(rest.values)
        assert decode_ledger(WRITER.enriched(raw, rest, out, END).value) == entry


ROWS = [row(A1, B1, bytes=100), row(A1, A2, bytes=50), row(B1, A1, direction=1, bytes=7)]


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"bytes": 99}, id="fewer bytes"),
        pytest.param({"packets": 1}, id="fewer packets"),
        pytest.param({"number": 1}, id="another row's number"),
        pytest.param({"rows": [0, 1]}, id="two rows"),
        pytest.param({"rows": [0, 0]}, id="a row twice"),
        pytest.param({"number": 3 * 10**14}, id="a number that no enricher comes to"),
        pytest.param({"number": 999, "rows": [2**53 - 1]}, id="a row that no chunk has"),
    ],
)
def test_a_flow_that_does_not_fit_its_chunk_stands_for_nothing(forged: dict[str, Any]) -> None:
    raw = chunk(ROWS)
    true = orjson.loads(next(iter(joined(ROWS).values)))
    assert out_of([orjson.dumps(true)]).fits(raw)
    number = forged.pop("number", 0)
    value = orjson.dumps(true | forged | {"id": f"{raw.id}/{number}"})
    assert not out_of([value]).fits(raw)
    assert not out_of([value]).fits(chunk([]))


@pytest.mark.parametrize(
    ("changed", "key", "partition"),
    [
        pytest.param({}, b"node-b1", 3, id="another node's key"),
        pytest.param({}, None, 3, id="no key"),
        pytest.param({}, b"node-a1", 4, id="another partition"),
        pytest.param({"scope": "near"}, b"node-a1", 3, id="no sink takes it"),
        pytest.param({"id": "prod/node-a1/x/0"}, b"node-a1", 3, id="no id"),
        pytest.param({"attribution_version": 1}, b"node-a1", 3, id="joined again by a replay"),
    ],
)
def test_what_no_enricher_wrote_is_not_out(changed: dict[str, Any], key: bytes | None, partition: int) -> None:
    value = next(iter(joined(ROWS).values))
    read_back(value, b"node-a1", 3)
    with pytest.raises(DecodeError):
        read_back(orjson.dumps(orjson.loads(value) | changed), key, partition)


def test_what_is_out_is_left_out() -> None:
    raw = chunk([row(A1, B1), row(B1, A1, direction=1), row(A1, A2)])
    run = WRITER.flows(raw, joined([row(A1, B1), row(B1, A1, direction=1), row(A1, A2)]), END)
    other = ChunkRun(msgspec.structs.replace(raw, sequence=raw.sequence + 1), [0], run.run)
    [rest, untouched] = not_out([run, other], {raw.id: Out(0, Amount(0, 0, 1)), "third": Out(9)})
    assert (rest.numbers, list(rest.run.values), untouched) == ([2], list(run.run.values)[1:], other)
    assert not_out([run], {raw.id: Out(2, Amount(0, 0, 2))}) == []
    assert not_out([run], {raw.id: Out(2, Amount(0, 0, 1))}) == [run], "the second row alone is not our doing"


def test_a_time_too_far_ahead_is_cut_to_what_kafka_takes() -> None:
    raw = chunk([row(A1, B1)])
    assert WRITER.flows(raw, joined([row(A1, B1)]), START).run.timestamp_ms == END
    assert WRITER.flows(raw, joined([row(A1, B1)]), START - 86_400_000).run.timestamp_ms == START - 83_400_000
