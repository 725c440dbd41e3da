# SPDX-License-Identifier: Apache-2.0
"""How many flows a window holds at the default size, what the map costs, and that a full one holds up nobody."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import layout, pins
from collector.kernel.bpf_syscall import MapType
from collector.kernel.generation import possible_cpus_here
from collector.metrics import CollectorMetrics
from collector.settings import CollectorSettings
from collector.window.encode import window_ledger
from schemas.ledger import LedgerRecord
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered

DEFAULT = int(CollectorSettings.model_fields["map_memory"].default)
FLOWS = 200_000
LENGTH = 68


@pytest.fixture
def meter(nodes: None, request: pytest.FixtureRequest) -> Iterator[Metered]:
    """On the node without connection tracking: its table would have to hold as many."""
    memory = getattr(request, "param", DEFAULT)
    netlab.ip("fabric", "route add blackhole 10.200.0.0/13")
    made = Metered("node2", metered.request(metered.pin_dir("capacity"), map_memory=memory))
    try:
        yield made
    finally:
        made.detach()
        netlab.ip("fabric", "route del blackhole 10.200.0.0/13")


def send(count: int, first: int = 0) -> None:
    """Send one packet to each of `count` addresses."""
    base = int.from_bytes(socket.inet_aton("10.200.0.0"), "big") + first
    udp = struct.pack("!HHHH", 40000, 443, LENGTH - 20, 0) + bytes(LENGTH - 28)
    source = socket.inet_aton(netlab.node_address(2))
    with netlab.new_socket("node2", netlab.node_address(2), socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for number in range(count):
            packed = (base + number).to_bytes(4, "big")
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, LENGTH, 1, 0, 64, 17, 0, source, packed)
            out.sendto(header + udp, (socket.inet_ntoa(packed), 0))


def test_a_window_holds_two_hundred_thousand_flows_and_the_next_goes_on_meanwhile(meter: Metered) -> None:
    meter.collect()
    send(FLOWS)
    window = meter.meter.flip(metered.now_ms())
    send(1000)  # into the next, while this one is not drained yet
    rows = window.rows()
    send(1000, first=1000)
    sent = [row for row in metered.flows_of(rows).items() if row[0].dst.startswith("10.2")]
    assert len(sent) == FLOWS
    assert {amount for _, amount in sent} == {(LENGTH, 1)}
    assert window_ledger(window.record, rows).lost == {}
    meter.meter.finish(window)
    send(1000, first=2000)
    following = meter.meter.flip(metered.now_ms())
    assert following.record.start_ms == window.record.end_ms
    assert sum(flow.dst.startswith("10.2") for flow in metered.flows_of(following.rows())) == 3000
    meter.meter.finish(following)


@pytest.mark.parametrize("meter", [4 << 20], indirect=True, ids=["4MiB"])
def test_what_finds_no_room_is_counted_in_bytes_and_packets(meter: Metered) -> None:
    room = layout.entries_for(4 << 20)
    cpus = possible_cpus_here()
    fast = cpus << (layout.fast_bits(4 << 20, cpus) or 0)
    send(room + fast + 5000)
    books = meter.collect()
    assert room <= books.map.rows <= room + fast
    lost = books.lost["map_full"]
    assert lost.packets >= 5000
    assert (books.map + lost).packets == books.hook.packets
    registry = CollectorRegistry()
    entry = LedgerRecord(
        hop="collector",
        id="c/n/0123456789ab/1/1",
        partition=0,
        start_ms=0,
        end_ms=1,
        taken=books.hook,
        given=books.map,
        lost=books.lost,
        aside=books.aside,
    )
    CollectorMetrics(registry, room, 0).published(entry)
    for name, amount in (("bytes", lost.bytes), ("packets", lost.packets)):
        assert registry.get_sample_value(f"zonemeter_collector_lost_{name}_total", {"reason": "map_full"}) == amount
    meter.collect()  # as full as it was, it was cleared
    send(10)
    assert meter.collect().lost == {}


@pytest.mark.parametrize("entries", [1, 1000, 4096, 100_000, 262_144, 262_145])
def test_the_kernel_takes_what_the_formula_says(entries: int) -> None:
    cpus = possible_cpus_here()
    fd = sys_bpf.map_create(MapType.HASH, layout.KEY.itemsize, layout.TALLY.itemsize, entries, "zm_size")
    with pins.closing_fd(fd):
        found = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    assert 0 <= int(found["memlock"]) - layout.map_bytes(entries, cpus) < 1024


@pytest.mark.parametrize("memory", [4096, 1 << 20, 3_333_333, DEFAULT, 1 << 30])
def test_two_maps_fit_into_what_they_may_take(memory: int) -> None:
    entries = layout.entries_for(memory)
    assert 2 * layout.map_bytes(entries, 0) <= memory
    assert 2 * layout.map_bytes(entries + 1, 0) > memory * 15 / 16
    for cpus in (1, 2, 16, 128, 1024):
        bits = layout.fast_bits(memory, cpus)
        fast = 0 if bits is None else cpus * layout.FAST_ENTRY.itemsize << bits
        assert 2 * (layout.map_bytes(entries, 0) + fast) <= memory


@pytest.mark.parametrize(
    ("memory", "cpus", "bits"),
    [(DEFAULT, 2, 12), (DEFAULT, 8, 12), (DEFAULT, 16, 11), (DEFAULT, 128, 8), (4096, 1, None), (1 << 20, 16, None)],
)
def test_how_many_entries_each_cpu_has_of_its_own(memory: int, cpus: int, bits: int | None) -> None:
    assert layout.fast_bits(memory, cpus) == bits
