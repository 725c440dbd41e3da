# SPDX-License-Identifier: Apache-2.0
"""The node's own addresses as the kernel tells them, and which of them others are told."""

import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from collector.attach import addresses
from collector.attach.addresses import MAX_TOLD, Address, OwnAddresses, older_than, parse, told
from collector.attach.dump import messages
from collector.kernel.layout import ROW
from collector.window.encode import raw_chunks
from schemas.raw import MAX_NODE_ADDRESSES, decode_chunk
from tests.collector.window.test_encode import FROZEN, META, SIX, THREE, A
from tests.support.collector import netlab

V4 = bytes(10) + b"\xff\xff"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(*attributes: bytes, flags: int = 0, scope: int = 0, ifindex: int = 2) -> bytes:
    return struct.pack("=BBBBI", 2, 24, flags, scope, ifindex) + b"".join(attributes)


def cache(valid: int, created: int, changed: int) -> bytes:
    """struct ifa_cacheinfo."""
    return attribute(6, struct.pack("=IIII", valid, valid, created, changed))


FOUR, PEER = socket.inet_aton("192.168.77.5"), socket.inet_aton("192.168.77.6")
LINK, GLOBAL = (socket.inet_pton(socket.AF_INET6, text) for text in ("fe80::1", "2a00::1"))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(message(attribute(1, PEER), attribute(2, FOUR)), Address(V4 + FOUR, 2, True), id="point to point"),
        pytest.param(message(attribute(3, b"eth0\0"), attribute(1, GLOBAL)), Address(GLOBAL, 2, True), id="IPv6"),
        pytest.param(message(attribute(1, LINK), scope=253), Address(LINK, 2, False), id="of the link"),
        pytest.param(
            message(attribute(2, socket.inet_aton("169.254.20.10"))),
            Address(V4 + socket.inet_aton("169.254.20.10"), 2, False),
            id="of the link, though its scope is global",
        ),
        pytest.param(
            message(attribute(2, b"\x7f\0\0\1"), scope=254), Address(V4 + b"\x7f\0\0\1", 2, False), id="loopback"
        ),
        pytest.param(
            message(attribute(2, FOUR), cache(valid=2**32 - 1, created=7, changed=9)),
            Address(V4 + FOUR, 2, True, 9),
            id="without a lifetime: changed by somebody",
        ),
        pytest.param(
            message(attribute(2, FOUR), cache(valid=3600, created=7, changed=9)),
            Address(V4 + FOUR, 2, True, 7),
            id="with a lifetime, that was renewed",
        ),
        pytest.param(message(attribute(1, GLOBAL), flags=0x48), None, id="another host has it"),
        pytest.param(message(attribute(1, GLOBAL), flags=0x40), None, id="not yet"),
        pytest.param(message(attribute(1, b"\1\2\3")), None, id="of another family"),
        pytest.param(message(), None, id="nothing"),
    ],
)
def test_a_message(told: bytes, expected: Address | None) -> None:
    assert parse(told) == expected


@pytest.mark.parametrize(
    ("since", "age_ms", "is_there"),
    [
        pytest.param(49_000, 9_000, True, id="ten seconds"),
        pytest.param(49_000, 9_010, False, id="not sure: ticks lag"),
        pytest.param(50_001, 0, False, id="the ticks are ahead"),
        pytest.param(2**32 - 1000, 500_000, True, id="stamps began again"),
        pytest.param(None, 0, False, id="no stamp"),
    ],
)
def test_how_long_an_address_has_been_there(since: int | None, age_ms: int, is_there: bool) -> None:
    found = [Address(FOUR, 2, True, since)]
    assert older_than(found, age_ms, uptime_ms=500_000) == ({FOUR} if is_there else set())


def test_messages_are_cut_apart_and_rubbish_ends() -> None:
    one, two = message(attribute(2, FOUR)), message(attribute(3, b"e\0"))
    answer = b"".join(struct.pack("=IHHII", 16 + len(each), 20, 2, 0, 0) + each for each in (one, two))
    assert list(messages(answer)) == [(20, 2, one), (20, 2, two)]
    assert [kind for kind, _, _ in messages(bytes(64))] == [0, 0, 0, 0]


def test_others_are_told_of_the_uplinks_addresses_only_and_not_of_any_number() -> None:
    found = [
        Address(V4 + FOUR, 2, True),
        Address(GLOBAL, 2, True),
        Address(LINK, 2, False),
        Address(V4 + PEER, 9, True),
    ]
    assert told(found, {2: "eth0"}) == ("192.168.77.5", "2a00::1")
    many = [Address(V4 + number.to_bytes(4), 2, True) for number in range(2**28, 2**28 + 10_000)]
    assert len(told(many, {2})) == MAX_TOLD <= MAX_NODE_ADDRESSES


@pytest.fixture
def node() -> Iterator[str]:
    netlab.add_namespace("own")
    yield "own"
    netlab.del_namespace("own")


def test_the_kernel_tells_all_of_a_node_with_an_address_for_each_service(node: str) -> None:
    """As kube-proxy's IPVS has them; they come in many parts."""
    services = {f"10.96.{number // 250}.{number % 250 + 1}" for number in range(2000)}
    netlab.ip(node, "\n".join(f"addr add {address}/32 dev lo" for address in services))
    found = netlab.inside(node, addresses.read)
    assert {address.packed for address in found} == {
        V4 + socket.inet_aton(address) for address in {*services, "127.0.0.1"}
    } | {bytes(15) + b"\1"}


def test_a_chunk_names_its_own_and_chunk_0_what_others_are_told() -> None:
    own = OwnAddresses(frozenset({A, SIX, V4 + FOUR}), ("192.168.77.5",))
    (encoded,) = raw_chunks(META, FROZEN, THREE, maybe_repeat=True, own=own)
    chunk = decode_chunk(encoded)
    assert chunk.maybe_repeat
    assert [chunk.addresses[number] for number in chunk.own] == ["10.42.1.17", "fd42:2::9"]
    assert chunk.node_addresses == ["192.168.77.5"]
    many = np.concatenate([THREE] * 1001)
    first, second = (decode_chunk(each) for each in raw_chunks(META, FROZEN, many, maybe_repeat=False, own=own))
    assert (len(first.own), first.node_addresses) == (2, ["192.168.77.5"])
    assert (len(second.own), second.node_addresses) == (2, None)
    (empty,) = raw_chunks(META, FROZEN, np.zeros(0, ROW), maybe_repeat=False, own=own)
    assert decode_chunk(empty).own == []
