# SPDX-License-Identifier: Apache-2.0
"""A program left behind stops counting; what it counted until then, and since when it did not, is not forgotten."""

import time
from collections.abc import Iterator

import pytest

from audit.books import Reconciler, conclude
from audit.result import Audit
from collector.kernel import pins
from collector.kernel.load_request import Answer
from collector.window.encode import ledger_record
from collector.window.meter import Meter, Window
from doctor.node import check_window
from schemas.ledger import decode_ledger, encode_ledger
from tests.support.collector import metered, netlab
from tests.support.collector.metered import flows_of
from tests.support.collector.netlab import pod_address, send_udp, wait_until

A = pod_address(1, 2)
_MARGIN_SECONDS = 0.7  # the clock is looked at once in 64 jiffies: 640 ms at 100 a second


class Node:
    def __init__(self) -> None:
        self.request = metered.request(metered.pin_dir("deadman"))
        self.entries: list[bytes] = []
        self.packets: list[int] = []
        self.meter = self.collector(metered.load("node1", self.request))

    def collector(self, answer: Answer, deadman_seconds: float = 3600) -> Meter:
        root = metered.pin_dir("deadman")
        self.meter = Meter(root, lambda: netlab.inside("node1", dict), metered.now_ms, deadman_seconds=deadman_seconds)
        metered.start("node1", self.meter, answer)
        return self.meter

    def close_window(self) -> Window:
        window = self.meter.flip(metered.now_ms())
        rows = window.rows()
        entry = ledger_record(window.meta, window.record, rows, 0)
        assert entry.balance() is None
        self.entries.append(encode_ledger(entry))
        self.packets.append(sum(packets for flow, (_, packets) in flows_of(rows).items() if flow.dst == A))
        self.meter.finish(window)
        return window

    def meter_generation(self) -> int:
        active = pins.active_generation(metered.pin_dir("deadman"))
        assert active is not None
        return active

    def seen(self) -> tuple[int, int]:
        assert self.meter.current is not None
        return self.meter.current.read_counters(self.meter.current.epoch())[0]

    def stopped(self) -> bool:
        assert self.meter.current is not None
        return self.meter.current.stopped_for() is not None


@pytest.fixture
def node(nodes: None) -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.meter.close()
        pins.detach(metered.pin_dir("deadman"))


def send(count: int) -> None:
    send_udp("pod11", "pod12", A, count=count, size=100)


def stop(node: Node) -> None:
    """Leave the program alone until it has stopped; packets make it look at the clock."""
    assert node.meter.current is not None
    node.meter.current.renew(0.001)

    def found_out() -> bool:
        send(1)
        return node.stopped()

    assert wait_until(found_out)


def test_it_counts_until_it_stops_and_the_audit_names_the_time_until_it_goes_on(node: Node) -> None:
    send(5)
    node.close_window()
    stop(node)
    stopped = metered.now_ms()
    (finding,) = check_window(metered.pin_dir("deadman"), time.time())
    assert (finding.status, "--deadman" in finding.found) == ("no", True)
    seen = node.seen()
    send(7)
    assert node.seen() == seen
    time.sleep(0.05)  # so that there is time to be unmeasured
    node.meter.close()
    node.collector(Answer(node.meter_generation(), active=True))
    send(11)  # not yet: there may be windows to publish first
    window = node.close_window()
    resumed = metered.now_ms()
    assert window.record.deadman
    assert window.record.start_ms < window.record.end_ms <= stopped
    send(13)
    after = node.close_window()
    assert not after.record.deadman
    assert after.record.start_ms <= resumed
    assert node.packets[0] == 5
    assert node.packets[2] == 13

    audit = Audit()
    books = Reconciler(lambda origin, start_ms: audit, lambda origin, start_ms: True)
    for entry in node.entries:
        books.take(decode_ledger(entry))
    conclude(books, audit, metered.now_ms(), None)
    (gap,) = audit.gaps
    assert (gap.from_ms, gap.to_ms) == (window.record.end_ms, after.record.start_ms)
    assert "--deadman" in gap.why


def test_signs_of_life_keep_it_counting_and_zero_is_for_ever(node: Node) -> None:
    for seconds in (3600.0, 0.0):
        node.meter.close()
        node.collector(Answer(node.meter_generation(), active=True), seconds)
        send(3)
        time.sleep(_MARGIN_SECONDS)
        send(3)
        assert not node.stopped()
    node.close_window()
    assert node.packets == [12]


def test_another_generation_goes_on_after_one_that_has_stopped(node: Node) -> None:
    send(5)
    stop(node)
    node.meter.close()
    node.collector(metered.load("node1", metered.request(metered.pin_dir("deadman"), service_ports=[50052])))
    unfinished = node.meter.unfinished()
    left = next(unfinished)
    node.meter.finish(left)
    assert next(unfinished, None) is None
    assert left.record.deadman
    assert left.record.end_ms < metered.now_ms()
    send(9)
    node.close_window()
    assert node.packets == [9]
