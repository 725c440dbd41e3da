# SPDX-License-Identifier: Apache-2.0
"""Many windows under load: every packet that was sent is in exactly one of them. `make flips` makes a thousand."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from collector.window.encode import window_ledger
from tests.support.collector import metered
from tests.support.collector.metered import Metered, flows_of, is_balanced
from tests.support.collector.netlab import new_socket, pod_address

A, B = pod_address(1, 1), pod_address(1, 2)
FLIPS, SENDERS, SIZE = int(os.environ.get("FLIPS", "250")), 2, 72


class Flood:
    """Sends datagrams from one pod to another from several threads, each to ports of its own, and counts them."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._sent = [0] * SENDERS
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)]

    def _send(self, number: int) -> None:
        with new_socket("pod11", B, socket.SOCK_DGRAM) as client:
            while not self._stopping.is_set():
                # 50 flows a sender, in turn: inserts and additions both meet the flip.
                client.sendto(b"x" * SIZE, (B, 5000 + 100 * number + self._sent[number] % 50))
                self._sent[number] += 1

    def __enter__(self) -> "Flood":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def sent(self) -> int:
        return sum(self._sent)


@pytest.fixture
def meter(nodes: None) -> Iterator[Metered]:
    made = Metered("node1", metered.request(metered.pin_dir("flips")))
    yield made
    made.detach()


def test_flips_under_load_lose_and_double_nothing(meter: Metered) -> None:
    sums = [0, 0]

    def flip() -> int:
        window = meter.meter.flip(metered.now_ms())
        rows = window.rows()
        assert is_balanced(window_ledger(window.record, rows))
        meter.meter.finish(window)
        counted = [
            amount for flow, amount in flows_of(rows).items() if (flow.src, flow.dst, flow.protocol) == (A, B, 17)
        ]
        for index in (0, 1):
            sums[index] += sum(amount[index] for amount in counted)
        return window.record.sequence

    first = flip()
    with Flood() as flood:
        for number in range(1, FLIPS + 1):
            assert flip() == first + number
    flip()
    assert flood.sent > 10 * FLIPS
    assert sums == [flood.sent * (SIZE + 28), flood.sent]
