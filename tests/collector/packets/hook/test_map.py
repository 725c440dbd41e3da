# SPDX-License-Identifier: Apache-2.0
"""The flow map: full, with both ports, and changed under load."""

import socket
import threading
from collections.abc import Iterator

import pytest

from collector.kernel import pins
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, pod_address, send_udp, wait_until

Meters = dict[int, Metered]

A4 = pod_address(1, 1)


@pytest.fixture
def small(nodes: None) -> Iterator[Metered]:
    """A meter of its own on the second node, with room for 16 flows and both ports kept."""
    root = metered.pin_dir("small")
    try:
        meter = Metered("node2", metered.request(root, map_memory=4096, ports="full"))
        yield meter
        meter.meter.close()
    finally:
        pins.detach(root)


def test_a_full_map_is_counted_to_the_byte(small: Metered) -> None:
    server_at = node_address(1)
    with netlab.udp_server("node1", server_at, 5000) as server:
        for port in range(40):
            with netlab.new_socket("node2", server_at, socket.SOCK_DGRAM) as client:
                client.bind(("0.0.0.0", 41_000 + port))
                client.sendto(b"x" * 100, (server_at, 5000))
                assert len(server.recv(1000)) == 100
    books = small.collect()
    assert books.map.rows == 16
    assert books.lost["map_full"].packets >= 24
    assert books.lost["map_full"].bytes == books.hook.bytes - books.map.bytes
    # Cleared, it has room again.
    send_udp("node2", "node1", server_at, count=1)
    assert "map_full" not in small.collect().lost


def test_both_ports_are_kept_if_asked(small: Metered) -> None:
    send_udp("node2", "node1", node_address(1), count=1, port=5353, sport=40001)
    assert small.sum(src_port=40001, dst_port=5353, direction="egress") == (1028, 1)


def test_flips_under_load_lose_and_double_nothing(meters: Meters) -> None:
    """Two senders at full speed through one flow and through many, while windows come and go at once."""
    sent = [0, 0]
    stop = threading.Event()

    def flood(sender: int) -> None:
        address = pod_address(1, 2)
        with netlab.new_socket("pod11", address, socket.SOCK_DGRAM) as client:
            while not stop.is_set():
                for port in range(6000, 6100):
                    client.sendto(b"x" * 72, (address, port + 100 * sender))
                sent[sender] += 100

    threads = [threading.Thread(target=flood, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    flips = 0
    while flips < 60 or sum(sent) < 10_000:
        meters[1].collect()
        flips += 1
    stop.set()
    for thread in threads:
        thread.join()
    expected = (100 * sum(sent), sum(sent))
    assert wait_until(lambda: meters[1].sum(src=A4, dst=pod_address(1, 2), protocol=17) == expected), sent
