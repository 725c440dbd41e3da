# SPDX-License-Identifier: Apache-2.0
"""The loop with a publisher that only records, or refuses: windows, retries, stopping, uplinks that come and go."""

import asyncio
import errno
import shutil
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest

from collector.attach import dump, netlink
from collector.collect import Collector
from collector.kernel import pins
from collector.outbox.outbox import Outbox
from collector.settings import CollectorSettings
from common.errors import PublishError
from common.kafka.publish import Record
from common.service.running import Service
from common.task_group import TaskGroup
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.kube.cluster import ClusterView
from schemas.flow import decode_flow
from schemas.ledger import decode_ledger
from schemas.raw import RawChunk, decode_chunk
from tests.support.collector import metered, netlab
from tests.support.collector.netlab import pod_address, send_udp
from tests.support.enricher import build

BOOT_ID = "0123456789ab"
A, B = pod_address(1, 1), pod_address(1, 2)


class Recorder:
    """Stands where Kafka's producer stands. `refuse`: how many more publications fail, after being taken or before."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.refuse = 0

    async def publish(self, records: Sequence[Record]) -> None:
        if self.refuse:
            self.refuse -= 1
            if self.refuse % 2:
                self.taken.extend(records)
            raise PublishError("no answer within the deadline")
        self.taken.extend(records)

    def chunks(self, settings: CollectorSettings) -> list[RawChunk]:
        return [decode_chunk(record.value) for record in self.taken if record.topic == settings.topics.raw]


@pytest.fixture
def settings(nodes: None, tmp_path: Path) -> Iterator[CollectorSettings]:
    made = CollectorSettings(
        node="node1",
        window_seconds=1,
        pin_dir=metered.pin_dir("collect"),
        spool_dir=tmp_path / "spool",
        map_memory=1 << 20,
    )
    try:
        yield made
    finally:
        pins.detach(made.pin_dir)


Script = Callable[[Service, Collector], Coroutine[None, None, None]]


async def _at_once() -> None:
    """No topics to wait for."""


def live(settings: CollectorSettings, recorder: Recorder, script: Script, at: str = "node1") -> Service:
    """Run the loop in a node's namespace beside `script`, which ends by telling it to stop."""

    async def body() -> Service:
        service = Service("collector")
        collector = Collector(settings, service, recorder)
        try:
            await collector.attach(BOOT_ID)
            async with TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(collector.watch_devices()),
                    tasks.create_task(collector.follow_devices()),
                    tasks.create_task(collector.send(_at_once)),
                ]
                tasks.create_task(script(service, collector))
                await collector.close_windows()
                for helper in helpers:
                    helper.cancel()
        finally:
            await collector.close()
        return service

    return netlab.inside(at, lambda: asyncio.run(body()))


async def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the kernel and elsewhere
            await asyncio.sleep(0.02)


def _sample(service: Service, name: str) -> float:
    value = service.registry.get_sample_value(name)
    assert value is not None
    return value


def test_windows_are_aligned_contiguous_and_the_last_is_short(settings: CollectorSettings) -> None:
    recorder = Recorder()

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 1)
        await asyncio.to_thread(send_udp, "pod11", "pod12", B, count=5, size=72)
        await until(lambda: len(recorder.chunks(settings)) >= 3)
        service.stopping.set()

    service = live(settings, recorder, script)
    chunks = recorder.chunks(settings)
    assert [chunk.sequence for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert all(chunk.end_ms % 1000 == 0 and not chunk.short for chunk in chunks[:-1])
    assert chunks[-1].short
    assert all(a.end_ms == b.start_ms for a, b in pairwise(chunks))
    sent = [
        chunk.bytes[row]
        for chunk in chunks
        for row in range(len(chunk.src))
        if (chunk.addresses[chunk.src[row]], chunk.addresses[chunk.dst[row]]) == (A, B)
    ]
    assert sum(sent) == 500  # in one window, or in two
    assert _sample(service, "zonemeter_collector_windows_total") == len(chunks)
    assert _sample(service, "zonemeter_collector_unbalanced_windows_total") == 0
    assert service.health.reasons == {"start": "starting"}  # which the service itself takes back


def _removed(service: Service) -> list[float | None]:
    whats = ("pin", "attachment")
    return [service.registry.get_sample_value("zonemeter_collector_removed_total", {"what": what}) for what in whats]


def test_what_somebody_removes_is_said_at_once(settings: CollectorSettings, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 1)
        assert _removed(service) == [0, 0]
        (settings.pin_dir / "link_ipv4_local_in").unlink()
        await until(lambda: _removed(service) == [1, 0])
        pins.deactivate(settings.pin_dir, "netfilter")
        await until(lambda: _removed(service) == [1, 1])
        # Not emptied where it is: a look that is under way would pin into it, and make it again.
        open_to_others, aside = (settings.pin_dir.with_name(f"{settings.pin_dir.name}-{n}") for n in (1, 2))
        open_to_others.mkdir()
        open_to_others.chmod(0o770)
        settings.pin_dir.rename(aside)
        open_to_others.rename(settings.pin_dir)
        shutil.rmtree(aside)
        await until(lambda: "attached" in service.health.reasons)
        settings.pin_dir.rmdir()
        await until(lambda: "attached" not in service.health.reasons)
        service.stopping.set()

    live(settings, recorder, script)
    said = [record.getMessage() for record in caplog.records]
    assert "somebody removed 1 pins; they are back, nothing was missed" in said
    assert any(line.startswith("somebody detached what counts; it is attached again") for line in said)
    assert any("others can write there (mode 0770)" in line for line in said)
    ledger = [decode_ledger(record.value) for record in recorder.taken if record.topic == settings.topics.ledger]
    assert [entry.detached for entry in ledger].count(True) == 1


def test_records_have_the_nodes_key_partition_and_time(settings: CollectorSettings) -> None:
    recorder = Recorder()

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.taken) >= 4)
        service.stopping.set()

    live(settings, recorder, script)
    assert {record.partition for record in recorder.taken} == {recorder.taken[0].partition}
    raw, ledger = recorder.taken[0], recorder.taken[1]
    chunk, entry = decode_chunk(raw.value), decode_ledger(ledger.value)
    assert (raw.topic, raw.key, raw.timestamp_ms) == (settings.topics.raw, b"node1", chunk.end_ms)
    assert (ledger.topic, ledger.key, ledger.timestamp_ms) == (settings.topics.ledger, entry.key, chunk.end_ms)
    assert entry.id == chunk.id.removesuffix("/0")
    assert entry.balance() is None
    assert chunk.ledger is not None
    assert "eth0" in chunk.ledger.uplinks


def test_a_window_that_was_refused_comes_again_as_it_was(settings: CollectorSettings) -> None:
    recorder = Recorder()

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 1)
        recorder.refuse = 2  # one that arrived all the same, one that did not
        await until(lambda: bool(service.health.reasons.get("publish")))
        await until(lambda: len(recorder.chunks(settings)) >= 5)
        service.stopping.set()

    service = live(settings, recorder, script)
    chunks = recorder.chunks(settings)
    repeated = [chunk for chunk in chunks if chunk.maybe_repeat]
    assert repeated
    first = next(chunk for chunk in chunks if chunk.id == repeated[0].id)
    assert (first.maybe_repeat, first.bytes, first.ledger) == (False, repeated[0].bytes, repeated[0].ledger)
    assert _sample(service, "zonemeter_collector_publish_retries_total") == 2
    assert "publish" not in service.health.reasons
    distinct = {chunk.id: chunk for chunk in chunks}
    ordered = sorted(distinct.values(), key=lambda chunk: chunk.sequence)
    assert all(a.end_ms == b.start_ms for a, b in pairwise(ordered))


def test_a_new_uplink_is_noticed(settings: CollectorSettings) -> None:
    recorder = Recorder()

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 1)
        await asyncio.to_thread(
            netlab.ip, "node1", "link add vx9 type vxlan id 9 dstport 4789 dev eth0\nlink set vx9 up"
        )
        await until(lambda: _sample(service, "zonemeter_collector_uplinks") == 2)
        await asyncio.to_thread(netlab.ip, "node1", "link del vx9")
        await until(lambda: _sample(service, "zonemeter_collector_uplinks") == 1)
        service.stopping.set()

    live(settings, recorder, script)


def test_a_kernel_that_does_not_say_its_devices_stops_no_window(
    settings: CollectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose rtnetlink answers too late, or that has no descriptor left for a socket."""
    recorder = Recorder()

    async def script(service: Service, collector: Collector) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(dump, "ask", Mock(side_effect=TimeoutError("timed out")))
            listening = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
            patch.setattr(netlink, "changes", listening)
            watching = asyncio.create_task(collector.watch_devices())
            await until(lambda: listening.call_count > 1)
            watching.cancel()
            await asyncio.to_thread(netlab.ip, "node1", "link add vx9 type vxlan id 9 dstport 4789 dev eth0")
            await until(lambda: "devices" in service.health.reasons)
            closed = len(recorder.chunks(settings))
            await until(lambda: len(recorder.chunks(settings)) >= closed + 2)
        await until(lambda: not service.health.reasons.keys() & {"devices"})
        await until(lambda: _sample(service, "zonemeter_collector_uplinks") == 2)
        await asyncio.to_thread(netlab.ip, "node1", "link del vx9")
        service.stopping.set()

    live(settings, recorder, script)


def test_hook_tc_follows_the_uplinks_and_says_what_it_is(settings: CollectorSettings) -> None:
    recorder, root = Recorder(), settings.pin_dir

    def attached() -> set[str]:
        return {path.name.rsplit("_", 1)[1] + str(path.stat().st_ino) for path in root.glob("link_tcx_*")}

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 1)
        eth0 = attached()
        assert len(eth0) == 2
        await asyncio.to_thread(
            netlab.ip, "node1", "link add vx9 type vxlan id 9 dstport 4789 dev eth0\nlink set vx9 up"
        )
        await until(lambda: len(attached()) == 4)
        await asyncio.to_thread(netlab.ip, "node1", "link del vx9")
        await until(lambda: attached() == eth0)
        service.stopping.set()

    live(settings.model_copy(update={"hook": "tc"}), recorder, script)
    assert {chunk.hook for chunk in recorder.chunks(settings)} == {"tc"}
    ledger = [decode_ledger(record.value) for record in recorder.taken if record.topic == settings.topics.ledger]
    assert {entry.hook for entry in ledger} == {"tc"}
    assert len(ledger) == len(recorder.chunks(settings))


def test_the_next_collector_goes_on_where_the_last_ended(settings: CollectorSettings) -> None:
    recorder = Recorder()

    async def script(service: Service, _: Collector) -> None:
        seen = len(recorder.chunks(settings))
        await until(lambda: len(recorder.chunks(settings)) > seen)
        service.stopping.set()

    live(settings, recorder, script)
    send_udp("pod11", "pod12", B, count=3, size=72)  # nobody is there but the kernel
    live(settings, recorder, script)
    chunks = recorder.chunks(settings)
    assert [chunk.sequence for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert len({chunk.generation for chunk in chunks}) == 1
    assert all(a.end_ms == b.start_ms for a, b in pairwise(chunks))
    assert sum(chunk.ledger.hook.bytes for chunk in chunks if chunk.ledger) >= 300


VIRTUAL, LATER, NODE_LOCAL_DNS = "192.168.77.5", "192.168.77.6", "169.254.20.10"


def _exchange(port: int, to: str, sender: str) -> None:
    """Ask from a namespace, and be answered by node1."""
    with netlab.udp_server("node1", to, port) as server, netlab.new_socket(sender, to, socket.SOCK_DGRAM) as client:
        client.sendto(bytes(72), (to, port))
        asked, by = server.recvfrom(100)
        server.sendto(asked, by)
        assert client.recv(100) == asked


@pytest.fixture
def virtual() -> Iterator[None]:
    """Two addresses of node1 besides its first, the second one to come while nobody looks."""
    netlab.ip("node1", f"addr add {VIRTUAL}/32 dev eth0")
    netlab.ip("fabric", f"route add 192.168.77.0/24 via {netlab.node_address(1)}")
    yield
    netlab.ip(
        "node1", f"addr del {VIRTUAL}/32 dev eth0\naddr replace {LATER}/32 dev eth0\naddr del {LATER}/32 dev eth0"
    )
    netlab.ip("fabric", f"route del 192.168.77.0/24 via {netlab.node_address(1)}")


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_first_window_after_a_takeover_says_what_the_node_had_all_the_time(
    settings: CollectorSettings, virtual: None, is_killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No collector read the addresses as it began; when each came to the node the kernel knows."""
    recorder = Recorder()

    async def dies(*_: object) -> bool:
        raise RuntimeError("killed with a window that nobody has")

    async def long_enough(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 4)
        service.stopping.set()

    async def stop(service: Service, _: Collector) -> None:
        service.stopping.set()

    live(settings, recorder, long_enough)
    if is_killed:
        # Before the second collector: its first window may end whenever it likes.
        _exchange(6443, VIRTUAL, "fabric")
        with monkeypatch.context() as patch, pytest.raises(ExceptionGroup):
            patch.setattr(Outbox, "settle", dies)
            live(settings, recorder, stop)
    netlab.ip("node1", f"addr add {LATER}/32 dev eth0")
    for address in (VIRTUAL, LATER):
        _exchange(6443, address, "fabric")
    recorder.taken.clear()
    live(settings, recorder, stop)
    first, *others = recorder.chunks(settings)
    earlier, taken_over = (first, others[0]) if is_killed else (None, first)
    assert {VIRTUAL, LATER} <= set(taken_over.addresses)
    assert {taken_over.addresses[number] for number in taken_over.own} & {VIRTUAL, LATER} == {VIRTUAL}
    assert taken_over.node_addresses == [netlab.node_address(1), VIRTUAL, LATER, netlab.node_address6(1)]
    if earlier is not None:
        assert VIRTUAL in [earlier.addresses[number] for number in earlier.own]
        assert (LATER in earlier.addresses, earlier.node_addresses) == (False, None)


def test_a_chunk_says_which_addresses_are_the_nodes_own(settings: CollectorSettings) -> None:
    """A virtual address of the uplink and that of a DNS cache of the node, from the kernel's count to the scope."""
    recorder = Recorder()
    addresses = [f"{VIRTUAL}/32 dev eth0", f"{NODE_LOCAL_DNS}/32 dev lo"]
    netlab.ip("node1", "\n".join(f"addr add {address}" for address in addresses))
    netlab.ip("fabric", f"route add {VIRTUAL}/32 via {netlab.node_address(1)}")

    async def script(service: Service, _: Collector) -> None:
        await until(lambda: len(recorder.chunks(settings)) >= 1)
        await asyncio.to_thread(_exchange, 53, NODE_LOCAL_DNS, "pod11")
        await asyncio.to_thread(_exchange, 6443, VIRTUAL, "fabric")
        service.stopping.set()

    try:
        live(settings, recorder, script)
    finally:
        netlab.ip("node1", "\n".join(f"addr del {address}" for address in addresses))
        netlab.ip("fabric", f"route del {VIRTUAL}/32")
    index = Index()
    index.apply(build.node("node1", netlab.node_address(1), "zone-a", from_ms=0))
    index.apply(build.node("node2", netlab.CLIENT, "zone-b", from_ms=0))
    index.apply(build.pod("api-1", A, "node1", from_ms=0))
    found = set()
    for chunk in recorder.chunks(settings):
        own = {chunk.addresses[number] for number in chunk.own}
        assert own == {VIRTUAL, NODE_LOCAL_DNS, netlab.node_address(1)} & set(chunk.addresses)
        assert chunk.node_addresses == [netlab.node_address(1), VIRTUAL, netlab.node_address6(1)]
        joined = join(chunk, resolve(chunk, Resolver(index, CidrMap([]))), 0, 0)
        assert set(joined.aside) <= {"sender_in_cluster"}, "what came to the virtual address"
        flows = [flow for flow in map(decode_flow, joined.values) if flow.network.transport == "udp"]
        found |= {(flow.source.address, flow.destination.address, flow.scope) for flow in flows}
        # A node that receives from the virtual address knows whose it is.
        others = ClusterView(Index(), live=False)
        others.load(index.current())
        others.hear(chunk)
        window = Resolver(others.index, CidrMap([])).window(chunk.start_ms, chunk.end_ms)
        assert [window.resolve(address).node for address in (VIRTUAL, NODE_LOCAL_DNS)] == ["node1", None]
    assert found == {
        (A, NODE_LOCAL_DNS, "same_node"),
        (NODE_LOCAL_DNS, A, "same_node"),
        (VIRTUAL, netlab.CLIENT, "cross_zone"),
    }
