# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run collector` as a process, with a real broker: away, without topics, killed, killed itself; reboots."""

import contextlib
import os
import signal
from itertools import pairwise

from audit.books import Reconciler, conclude
from audit.result import Audit
from collector.kernel import pins
from collector.kernel.generation import Generation
from lab.kafka.broker import Broker
from tests.support.collector import metered
from tests.support.collector.collector_process import (
    A,
    B,
    Process,
    check,
    packets_between,
    published,
    start,
    topics_apply,
)
from tests.support.collector.netlab import send_udp, wait_until


def test_it_waits_for_kafka_and_its_topics_and_counts_meanwhile(broker: Broker, collector: Process) -> None:
    collector.start()
    was_ready = set()

    def waits() -> bool:
        was_ready.add(collector.ready())
        return any("not ready: Kafka at 192.168.50.99:9094" in line for line in collector.lines())

    assert wait_until(waits)
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert was_ready == {collector.ready()} == {False}
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_windows") >= 3)
    start(broker)
    assert collector.says("do not exist: zonemeter topics apply")
    assert collector.says("ready again: kafka")
    topics_apply(collector)
    assert wait_until(collector.ready)
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= 2)
    send_udp("pod11", "pod12", B, count=4, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    chunks = check(collector, 7)
    assert [chunk.short for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not list(collector.spool.glob("*/*"))


def test_stopped_within_its_first_window_it_publishes_that(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector)
    collector.command[collector.command.index("--window-seconds") + 1] = "60"
    collector.start()
    assert wait_until(collector.ready)
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    assert check(collector, 3)[-1].short, collector.log.read_text()
    assert not list(collector.spool.glob("*/*"))


def test_another_number_of_partitions_makes_it_wait(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector, "--partitions", "5")
    collector.start()
    assert collector.says("has 5 partitions, the setting partitions says 12: they must agree")
    assert not collector.ready()
    assert collector.signal(signal.SIGTERM) == 0


def test_the_broker_killed_and_away_for_longer_than_a_deadline(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    broker.kill()
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.says("Kafka does not take windows")
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_windows") >= 3)
    send_udp("pod11", "pod12", B, count=4, size=72)
    start(broker)
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_spool_windows") == 0)
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, 7)


def test_without_a_disk_windows_grow(broker: Broker, collector: Process) -> None:
    collector.spool.write_text("a file where the directory should be")
    start(broker)
    topics_apply(collector)
    collector.start()
    assert collector.says("while Kafka is away windows grow in the kernel instead")
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    assert collector.metric("zonemeter_collector_spool_usable") == 0
    broker.kill()
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.says("windows grow in the kernel until Kafka takes them")
    begun = collector.metric("zonemeter_collector_spool_failures_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_failures_total") > begun)
    send_udp("pod11", "pod12", B, count=4, size=72)
    start(broker)
    assert wait_until(collector.ready)
    assert collector.signal(signal.SIGTERM) == 0
    chunks = check(collector, 7)
    assert max(chunk.end_ms - chunk.start_ms for chunk in chunks) > 3000


def test_left_alone_for_too_long_it_stops_and_the_ledger_says_since_when(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    send_udp("pod11", "pod12", B, count=3, size=72)
    collector.signal(signal.SIGKILL)
    active = pins.active_generation(collector.pin_dir)
    meta = None if active is None else pins.read_meta(collector.pin_dir, active)
    assert meta is not None
    with contextlib.closing(Generation(collector.pin_dir, meta)) as generation:
        generation.renew(0.001)  # as if six hours had passed

        def stopped() -> bool:
            send_udp("pod12", "pod11", A, count=1, size=72)
            return generation.stopped_for() is not None

        assert wait_until(stopped)
    send_udp("pod11", "pod12", B, count=4, size=72)  # seen by nobody
    collector.start()
    assert collector.says("no collector had been here for long (--deadman)")
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2)
    send_udp("pod11", "pod12", B, count=5, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    chunks, entries = published(collector)
    assert sum(packets_between(chunk, A, B) for chunk in chunks) == 3 + 5
    (cut,) = [entry for entry in entries if entry.ended_by == "deadman"]
    (gap,) = [(one.end_ms, two.start_ms) for one, two in pairwise(chunks) if one.end_ms != two.start_ms]
    assert gap[0] == cut.end_ms < gap[1]


def test_a_spool_outlives_the_node(broker: Broker, collector: Process) -> None:
    """Another boot, other pins, another name of the node: what the disk holds is published first, as it was."""
    boot_id = collector.log.parent / "boot_id"
    boot_id.write_text("111111111111")
    collector.command += ["--boot-id-file", str(boot_id)]
    start(broker)
    topics_apply(collector)
    broker.kill()
    collector.start()
    assert collector.says("counting")
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_windows") >= 2)
    collector.signal(signal.SIGKILL)
    spooled = len(list(collector.spool.glob("*/*.window")))
    pins.detach(collector.pin_dir)  # as a reboot does
    boot_id.write_text("222222222222")
    collector.command += ["--node", "renamed"]
    start(broker)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") > spooled)
    send_udp("pod11", "pod12", B, count=4, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    chunks, entries = published(collector)
    lives = [(chunk.node, chunk.boot_id, chunk.sequence) for chunk in chunks]
    assert sorted(lives) == [
        *(("node1", "111111111111", number) for number in range(1, spooled + 1)),
        *(("renamed", "222222222222", number) for number in range(1, len(chunks) - spooled + 1)),
    ]
    assert sum(packets_between(chunk, A, B) for chunk in chunks) == 3 + 4
    assert {entry.id for entry in entries} == {chunk.id.removesuffix("/0") for chunk in chunks}


def test_stopped_while_the_broker_is_away(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    broker.kill()
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.signal(signal.SIGTERM) == 0, collector.log.read_text()
    assert "windows stay in the spool; the next collector publishes them" in collector.lines()
    send_udp("pod11", "pod12", B, count=2, size=72)
    start(broker)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 2)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, 5)


def test_stopped_while_the_broker_answers_nothing(broker: Broker, collector: Process) -> None:
    """Its connections stay open and it takes what it is sent: SIGTERM ends the collector within its budget."""
    start(broker)
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    assert broker.process is not None
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        send_udp("pod11", "pod12", B, count=3, size=72)
        assert collector.signal(signal.SIGTERM) == 0, collector.log.read_text()
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)
    assert "stopped" in collector.lines()
    send_udp("pod11", "pod12", B, count=2, size=72)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 2)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, 5)


def test_killed_again_and_again(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector)
    sent = 0
    for life in range(1, 7):
        collector.start()
        assert collector.says("counting", times=life)
        for _ in range(3):
            send_udp("pod11", "pod12", B, count=5, size=72)
            sent += 5
        # Somewhere in a window's life: around the boundary most of it happens.
        wait_until(lambda: False, 0.9)
        collector.signal(signal.SIGKILL)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 2)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, sent)


def test_what_a_reboot_cost_is_named(broker: Broker, collector: Process) -> None:
    """Pins, links and maps are gone, and so is what the open window held: the audit says which time that was."""
    boot_id = collector.log.parent / "boot_id"
    boot_id.write_text("111111111111")
    collector.command += ["--boot-id-file", str(boot_id)]
    start(broker)
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 2)
    send_udp("pod11", "pod12", B, count=3, size=72)
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2)
    collector.signal(signal.SIGKILL)
    pins.detach(collector.pin_dir)
    send_udp("pod11", "pod12", B, count=4, size=72)  # seen by nobody
    boot_id.write_text("222222222222")
    collector.start()
    assert collector.says("counting", times=2)
    send_udp("pod11", "pod12", B, count=5, size=72)
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1)
    assert collector.signal(signal.SIGTERM) == 0
    chunks, entries = published(collector)
    assert sum(packets_between(chunk, A, B) for chunk in chunks) == 3 + 5
    before = [chunk for chunk in chunks if chunk.boot_id == "111111111111"]
    after = [chunk for chunk in chunks if chunk.boot_id == "222222222222"]
    assert [chunk.sequence for chunk in after] == list(range(1, len(after) + 1))
    audit = Audit()
    books = Reconciler(lambda origin, start_ms: audit, lambda origin, start_ms: True)
    for entry in entries:
        books.take(entry)
    conclude(books, audit, metered.now_ms())
    (gap,) = audit.gaps
    assert (gap.node, gap.from_ms, gap.to_ms) == ("node1", before[-1].end_ms, after[0].start_ms)
    assert "a new boot, 222222222222" in gap.why
