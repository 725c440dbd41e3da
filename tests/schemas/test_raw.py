# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import orjson
import pytest

from schemas.errors import DecodeError
from schemas.raw import COLUMNS, MAX_READ_BYTES, decode_chunk, encode_chunk
from tests.support.builders import raw_chunk, raw_columns, raw_head

ONE_ROW: dict[str, Any] = {"src": [0], "dst": [1], "bytes": [1500], "packets": [1]}


def changed(**fields: Any) -> bytes:
    chunk = orjson.loads(raw_chunk(["10.0.0.1", "10.0.0.2"], **ONE_ROW))
    return orjson.dumps({key: value for key, value in (chunk | fields).items() if value is not ...})


def test_numpy_columns_come_back_as_they_went() -> None:
    columns: dict[str, Any] = {name: np.zeros(2, np.uint32) for name in COLUMNS}
    columns |= {"bytes": np.array([2**40, 7], np.uint64), "src": np.array([0, 1], np.uint32), "dnat": [1, None]}
    chunk = decode_chunk(encode_chunk(raw_head(), ["10.0.0.1", "fd00::1"], columns))
    assert chunk.bytes == [2**40, 7]
    assert chunk.src == [0, 1]
    assert chunk.dnat == [1, None]
    assert chunk.addresses == ["10.0.0.1", "fd00::1"]
    assert chunk.id == "lab/node-a1/5be6c2f0a91d/3/8121/0"


def test_the_same_window_is_the_same_bytes() -> None:
    assert encode_chunk(raw_head(), ["::1"], raw_columns(src=[0])) == encode_chunk(
        raw_head(), ["::1"], raw_columns(src=[0])
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(None, "not_json", id="tombstone"),
        pytest.param(b"", "not_json", id="empty"),
        pytest.param(b"\xff\xfe", "not_json", id="not text"),
        pytest.param(b'{"x":' + b"[" * 100_000, "not_json", id="nested too deep"),
        pytest.param(b"{}", "schema_mismatch", id="no field"),
        pytest.param(b" " * (MAX_READ_BYTES + 1), "too_large", id="too large"),
        pytest.param(changed(node=...), "schema_mismatch", id="no node"),
        pytest.param(changed(node="a/b"), "schema_mismatch", id="a slash in the node's name"),
        pytest.param(changed(boot_id="nonsense"), "schema_mismatch", id="boot id"),
        pytest.param(changed(bytes=[-1]), "schema_mismatch", id="negative bytes"),
        pytest.param(changed(bytes=[2**53]), "schema_mismatch", id="bytes beyond a double"),
        pytest.param(changed(bytes=["1500"]), "schema_mismatch", id="bytes as text"),
        pytest.param(changed(bytes=[1.5]), "schema_mismatch", id="half a byte"),
        pytest.param(changed(direction=[3]), "schema_mismatch", id="unknown direction"),
        pytest.param(changed(src_port=[65536]), "schema_mismatch", id="port"),
        pytest.param(changed(addresses=["1" * 46, "::1"]), "schema_mismatch", id="address too long to be one"),
        pytest.param(
            raw_chunk(["::1"], src=[0, 0], bytes=[2**53 - 1, 1]),
            "inconsistent",
            id="bytes of the chunk beyond a double",
        ),
        pytest.param(changed(bytes=[]), "inconsistent", id="columns of different length"),
        pytest.param(changed(dst=[2]), "inconsistent", id="address beyond the list"),
        pytest.param(changed(server=[1, 2]), "inconsistent", id="server for more rows than there are"),
        pytest.param(changed(server=[3]), "schema_mismatch", id="a third end that serves"),
        pytest.param(changed(own=[2]), "inconsistent", id="own address beyond the list"),
        pytest.param(changed(own=["10.0.0.1"]), "schema_mismatch", id="own addresses as text"),
        pytest.param(changed(node_addresses=["::1"] * 257), "schema_mismatch", id="more addresses than a node has"),
        pytest.param(changed(end_ms=0), "inconsistent", id="ends before it starts"),
        pytest.param(changed(chunk=1), "inconsistent", id="chunk beyond the number of chunks"),
        pytest.param(changed(ledger=...), "inconsistent", id="chunk 0 without ledger"),
        pytest.param(changed(schema_version=2), "unsupported_version", id="next version"),
        pytest.param(orjson.dumps({"schema_version": 2, "rows": 1}), "unsupported_version", id="next version, changed"),
    ],
)
def test_what_is_no_chunk_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_chunk(value)
    assert caught.value.reason == reason


def test_what_an_earlier_version_wrote_says_of_no_row_who_serves() -> None:
    assert decode_chunk(changed()).server == []
    assert decode_chunk(changed(server=[2])).server == [2]


def test_a_field_of_a_later_minor_version_is_ignored() -> None:
    assert decode_chunk(changed(colour="blue")).bytes == [1500]
