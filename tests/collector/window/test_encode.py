# SPDX-License-Identifier: Apache-2.0
"""A window as chunks: what a reader decodes is what the map held, under the size limit, and always the same bytes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.kernel.epoch_record import MAX_UPLINKS, EpochRecord, Phase, Uplink
from collector.kernel.generation import add_up, possible_cpus, sort_rows
from collector.kernel.layout import (
    COUNTERS,
    KEY,
    ROW,
    SERVER_DESTINATION,
    SERVER_SHIFT,
    SERVER_SOURCE,
    TALLY,
    Rows,
    converted,
)
from collector.kernel.pins import Meta
from collector.window.encode import address_text, chunk_count, ledger_record, raw_chunks
from schemas.amount import Amount
from schemas.ledger import decode_ledger, encode_ledger
from schemas.raw import MAX_ENCODED_BYTES, SERVERS, UplinkCounters, decode_chunk

META = Meta("digest", 3, "prod-eu", "node-a1", "5be6c2f0a91d")
FROZEN = EpochRecord(
    Phase.FROZEN,
    8121,
    1_795_384_000_000,
    1_795_384_010_000,
    counters=((1700, 17), (200, 2), *((0, 0),) * (COUNTERS - 2)),
    uplinks=(Uplink("eth0", (0, 0, 0, 0), (4, 3, 2, 1)),),
)
V4 = b"\0" * 10 + b"\xff\xff"
A, B = V4 + bytes([10, 42, 1, 17]), V4 + bytes([10, 42, 2, 9])
SIX = bytes.fromhex("fd420002000000000000000000000009")


def rows(*entries: tuple[bytes, bytes, int, int, int, int, int, int, int, int]) -> Rows:
    """Rows of src, dst, src_port, dst_port, protocol, direction, connection, encapsulation, bytes, packets."""
    made = np.zeros(len(entries), ROW)
    for index, (src, dst, *numbers, octets, packets) in enumerate(entries):
        made[index]["key"] = (list(src), list(dst), *numbers)
        made[index]["tally"] = (octets, packets)
    return sort_rows(made)


V4S = st.sampled_from([A, B, V4 + bytes(4)]) | st.binary(min_size=4, max_size=4).map(lambda tail: V4 + tail)
SIXES = st.just(SIX) | st.binary(min_size=8, max_size=8).map(lambda tail: SIX[:8] + tail)
FOLDED = b"\xff\x00\x18" + V4[3:] + bytes([10, 1, 2, 0])
MIXED = V4S | SIXES | st.just(FOLDED) | st.binary(min_size=16, max_size=16)

THREE = rows(
    (SIX, SIX, 0, 53, 17, 1, 0 | SERVER_SOURCE << SERVER_SHIFT, 0, 300, 3),
    (A, B, 0, 5432, 6, 0, 1 | SERVER_DESTINATION << SERVER_SHIFT, 0, 1000, 10),
    (B, A, 5432, 0, 6, 2, 2, 1, 200, 2),
)


def test_a_reader_gets_what_the_map_held() -> None:
    (encoded,) = raw_chunks(META, FROZEN, THREE, maybe_repeat=False)
    chunk = decode_chunk(encoded)
    assert chunk.id == "prod-eu/node-a1/5be6c2f0a91d/3/8121/0"
    assert (chunk.chunks, chunk.start_ms, chunk.end_ms) == (1, FROZEN.start_ms, FROZEN.end_ms)
    assert (chunk.short, chunk.maybe_repeat, chunk.hook) == (False, False, "netfilter")
    assert chunk.addresses == ["10.42.1.17", "10.42.2.9", "fd42:2::9"]
    assert list(zip(chunk.src, chunk.dst, chunk.protocol, chunk.src_port, chunk.dst_port, strict=True)) == [
        (0, 1, 6, 0, 5432),
        (1, 0, 6, 5432, 0),
        (2, 2, 17, 0, 53),
    ]
    assert chunk.direction == [0, 2, 1]
    assert chunk.dnat == [1, None, 0]
    assert [SERVERS[server] for server in chunk.server] == ["destination", "unknown", "source"]
    assert (chunk.bytes, chunk.packets, chunk.encapsulation) == ([1000, 200, 300], [10, 2, 3], [0, 1, 0])
    assert chunk.ledger is not None
    assert chunk.ledger.hook == Amount(1700, 17)
    assert chunk.ledger.map == Amount(1500, 15, 3)
    assert chunk.ledger.aside == {"loopback": Amount(200, 2)}
    assert chunk.ledger.lost == {}
    assert chunk.ledger.uplinks == {"eth0": UplinkCounters(4, 3, 2, 1)}


def test_an_empty_window_is_one_chunk_without_rows() -> None:
    (encoded,) = raw_chunks(META, FROZEN, rows(), maybe_repeat=False)
    chunk = decode_chunk(encoded)
    assert (chunk.addresses, chunk.src, chunk.dnat, chunk.server) == ([], [], [], [])
    assert chunk.ledger is not None


def test_a_column_that_says_nothing_is_left_out() -> None:
    (encoded,) = raw_chunks(META, FROZEN, rows((A, B, 0, 53, 17, 0, 1, 0, 1700, 17)), maybe_repeat=False)
    assert b'"server"' not in encoded
    assert decode_chunk(encoded).server == []


def test_rows_of_a_version_that_knew_no_server_keep_what_it_knew() -> None:
    was = [(name if name != "connection" else "dnat", *rest) for name, *rest in KEY.descr]
    old = np.zeros(3, np.dtype([("key", np.dtype(was)), ("tally", TALLY)]))
    old["key"]["dnat"] = [0, 1, 2]
    (encoded,) = raw_chunks(META, FROZEN, converted(old), maybe_repeat=False)
    assert (decode_chunk(encoded).dnat, decode_chunk(encoded).server) == ([0, 1, None], [])


@pytest.mark.parametrize(
    ("short", "repeat"), [pytest.param(True, False, id="short"), pytest.param(False, True, id="repeat")]
)
def test_what_a_window_says_of_itself(short: bool, repeat: bool) -> None:
    (encoded,) = raw_chunks(META, replace(FROZEN, short=short), THREE, maybe_repeat=repeat)
    chunk = decode_chunk(encoded)
    assert (chunk.short, chunk.maybe_repeat) == (short, repeat)


def _random_rows(count: int) -> Rows:
    random = np.random.default_rng(3)
    made = np.zeros(count, ROW)
    made["key"] = random.integers(0, 256, (count, 40), np.uint8).view(made["key"].dtype).reshape(count)
    made["key"]["direction"] %= 3
    connection = made["key"]["connection"]
    made["key"]["connection"] = connection % 3 | connection // 3 % 3 << SERVER_SHIFT
    made["key"]["encapsulation"] %= 7
    made["tally"]["bytes"] = made["tally"]["packets"] = 10**12  # more digits than one flow of a window can have
    return made


def test_the_longest_rows_stay_under_the_limit_and_rows_are_cut_in_order() -> None:
    many = sort_rows(_random_rows(7000))
    uplinks = [Uplink(f"enp{number:012}", (0,) * 4, (2**53 - 1,) * 4) for number in range(MAX_UPLINKS)]
    made = list(raw_chunks(META, replace(FROZEN, uplinks=tuple(uplinks)), many, maybe_repeat=True))
    assert [len(decode_chunk(chunk).src) for chunk in made] == [3000, 3000, 1000]
    assert chunk_count(FROZEN, 7000) == 3
    assert max(len(chunk) for chunk in made) < MAX_ENCODED_BYTES - 32 * 1024
    assert [decode_chunk(chunk).ledger is None for chunk in made] == [False, True, True]


def test_the_order_of_the_map_does_not_matter() -> None:
    many = _random_rows(5000)
    shuffled = many[np.random.default_rng(4).permutation(len(many))]
    first = list(raw_chunks(META, FROZEN, sort_rows(many), maybe_repeat=False))
    assert first == list(raw_chunks(META, FROZEN, sort_rows(shuffled), maybe_repeat=False))
    keys = [row["key"].tobytes() for row in sort_rows(many)]
    assert keys == sorted(keys)


@given(addresses=st.sampled_from([V4S, SIXES, MIXED]).flatmap(lambda kind: st.lists(kind, min_size=2, max_size=40)))
def test_addresses_stand_once_in_their_order_whatever_they_are(addresses: list[bytes]) -> None:
    """IPv4, one /64 and a mixture go different ways."""
    pairs = list(itertools.pairwise(addresses))
    many = rows(*((src, dst, 0, port, 6, 0, 0, 0, 100, 1) for port, (src, dst) in enumerate(pairs)))
    keys = [row["key"].tobytes() for row in many]
    assert keys == sorted(keys)
    (encoded,) = raw_chunks(META, FROZEN, many, maybe_repeat=False)
    chunk = decode_chunk(encoded)
    assert chunk.addresses == [address_text(address) for address in sorted(set(addresses))]
    found = zip(chunk.dst_port, chunk.src, chunk.dst, strict=True)
    assert [(chunk.addresses[src], chunk.addresses[dst]) for _, src, dst in sorted(found)] == [
        (address_text(src), address_text(dst)) for src, dst in pairs
    ]


def test_the_ledger_record_balances() -> None:
    entry = ledger_record(META, FROZEN, THREE, 5)
    assert entry.key == b"collector/5/prod-eu/node-a1/5be6c2f0a91d/3/8121"
    assert entry.balance() is None
    assert (entry.taken, entry.given, entry.chunks) == (Amount(1700, 17), Amount(1500, 15, 3), 1)
    assert decode_ledger(encode_ledger(entry)) == entry


@pytest.mark.parametrize(
    ("address", "text"),
    [
        pytest.param(A, "10.42.1.17", id="ipv4"),
        pytest.param(SIX, "fd42:2::9", id="ipv6"),
        pytest.param(bytes(15) + b"\1", "::1", id="ipv6-loopback"),
    ],
)
def test_addresses(address: bytes, text: str) -> None:
    assert address_text(address) == text


@pytest.mark.parametrize(("text", "count"), [("0-1\n", 2), ("0", 1), ("0-3,8-11", 8), ("0,2", 2)])
def test_possible_cpus(text: str, count: int) -> None:
    assert possible_cpus(text) == count


def test_what_several_cpus_have_of_a_flow_is_added_and_no_flow_is_there_twice() -> None:
    many = _random_rows(500)
    apart = np.concatenate([many, many[100:300], many[200:250]])
    added = add_up(sort_rows(apart))
    expected = dict.fromkeys((row["key"].tobytes() for row in many), (0, 0))
    for row in apart:
        octets, packets = expected[row["key"].tobytes()]
        expected[row["key"].tobytes()] = (octets + int(row["tally"]["bytes"]), packets + int(row["tally"]["packets"]))
    found = [(row["key"].tobytes(), (int(row["tally"]["bytes"]), int(row["tally"]["packets"]))) for row in added]
    assert dict(found) == expected
    assert [key for key, _ in found] == sorted(expected)
    alone = sort_rows(many)
    assert add_up(alone).tobytes() == alone.tobytes()
