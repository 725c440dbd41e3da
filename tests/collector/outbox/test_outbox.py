# SPDX-License-Identifier: Apache-2.0
"""Windows on their way out: directly, by the spool, in order, and each marked as a repeat when it may be one."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from collector.metrics import CollectorMetrics
from collector.outbox.outbox import Outbox
from collector.outbox.publish import WindowPublisher
from collector.outbox.spool import Spool
from common.errors import PublishError
from common.kafka.publish import Record
from common.service.running import Service
from schemas.ledger import LedgerRecord, decode_ledger
from schemas.raw import decode_chunk
from schemas.topics import TopicNames
from tests.collector.outbox.test_spool import window

NAMES = TopicNames()


class Kafka:
    """Takes everything, or nothing while `away`, or hangs while `silent`; `lossy`: takes it and does not say so."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.away = self.lossy = False
        self.silent = asyncio.Event()
        self.silent.set()

    async def publish(self, records: Sequence[Record]) -> None:
        await self.silent.wait()
        if self.away:
            raise PublishError("no answer within the deadline")
        self.taken.extend(records)
        if self.lossy:
            raise PublishError("no answer within the deadline")

    def windows(self) -> list[tuple[int, int, bool]]:
        """Sequence, chunk and whether it says that it may be a repeat, of every chunk in the order taken."""
        chunks = [decode_chunk(record.value) for record in self.taken if record.topic == NAMES.raw]
        return [(chunk.sequence, chunk.chunk, chunk.maybe_repeat) for chunk in chunks]

    def ledger(self) -> list[LedgerRecord]:
        return [decode_ledger(record.value) for record in self.taken if record.topic == NAMES.ledger]


class Life:
    """One collector's outbox."""

    def __init__(self, kafka: Kafka, directory: Path, *, limit: int = 1 << 20, patience: float = 0.05) -> None:
        self.kafka = kafka
        self.service = Service("collector")
        self.spool = Spool(directory, limit)
        publisher = WindowPublisher(kafka, NAMES, 12)
        metrics = CollectorMetrics(self.service.registry, 1, limit)
        self.outbox = Outbox(self.service, publisher, self.spool, metrics, patience)

    async def live(self, script: Callable[["Life"], Awaitable[None]], *, drain: bool = True) -> None:
        await self.outbox.open()
        sending = asyncio.create_task(self.outbox.send(_at_once))
        await script(self)
        if drain:
            async with asyncio.timeout(120):
                await self.outbox.drain()
        sending.cancel()
        await asyncio.wait([sending])

    def metric(self, name: str) -> float:
        return self.service.registry.get_sample_value(f"zonemeter_collector_{name}") or 0.0


async def _at_once() -> None:
    """No topics to wait for."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.01)


def both(sequence: int, *, repeat: bool = False) -> list[tuple[int, int, bool]]:
    return [(sequence, 0, repeat), (sequence, 1, repeat)]


def run(body: Callable[[Kafka], Awaitable[None]]) -> None:
    async def inside() -> None:
        await body(Kafka())

    asyncio.run(inside())


def test_a_window_that_is_safe_is_not_held_on_to(tmp_path: Path) -> None:
    """The next may be long in coming, and a large one is megabytes."""

    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            given = window(1)
            gone = weakref.ref(given.chunks)
            assert await life.outbox.settle(given)
            del given
            await until(lambda: gone() is None)

        await Life(kafka, tmp_path, patience=20).live(script)

    run(body)


def test_what_kafka_takes_never_sees_the_disk(tmp_path: Path) -> None:
    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            assert [await life.outbox.settle(window(number)) for number in (1, 2)] == [True, True]

        life = Life(kafka, tmp_path, patience=20)
        await life.live(script)
        assert kafka.windows() == both(1) + both(2)
        assert [entry.id for entry in kafka.ledger()] == [window(1).ledger.id, window(2).ledger.id]
        assert (life.metric("windows_total"), life.metric("spooled_windows_total")) == (2, 0)

    run(body)


def test_while_kafka_is_away_windows_are_spooled_and_come_out_in_order(tmp_path: Path) -> None:
    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            kafka.away = True
            for number in range(1, 6):
                assert not await life.outbox.settle(window(number))
            await until(lambda: "publish" in life.service.health.reasons)
            assert (life.metric("spool_windows"), life.metric("windows_total")) == (5, 0)
            kafka.away = False
            assert not await life.outbox.settle(window(6)), "it waits behind the others"

        life = Life(kafka, tmp_path)
        await life.live(script)
        found = kafka.windows()
        # The first was tried while the kernel held it; those that came after it were tried once.
        assert found[:2] == both(1, repeat=True)
        assert found[2:] == [each for number in range(2, 7) for each in both(number)]
        assert "publish" not in life.service.health.reasons
        assert (life.metric("spool_windows"), life.metric("spool_bytes"), life.spool.used()) == (0, 0, 0)

    run(body)
    assert list(tmp_path.iterdir()) == []


def test_what_arrived_without_an_answer_comes_again_as_a_repeat(tmp_path: Path) -> None:
    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            kafka.lossy = True
            await life.outbox.settle(window(1))
            await until(lambda: (1, 0, True) in kafka.windows())
            kafka.lossy = False

        await Life(kafka, tmp_path).live(script)
        assert kafka.windows()[0] == (1, 0, False)
        assert kafka.windows()[-2:] == both(1, repeat=True)
        assert all(repeat for _, _, repeat in kafka.windows()[2:])

    run(body)


def test_an_answer_that_comes_when_the_window_is_on_disk_already(tmp_path: Path) -> None:
    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            kafka.silent.clear()
            assert not await life.outbox.settle(window(1))
            assert life.spool.windows() == 1
            kafka.silent.set()
            await until(lambda: life.spool.windows() == 0)
            await life.outbox.settle(window(2))

        await Life(kafka, tmp_path).live(script)
        assert kafka.windows() == both(1) + both(2)

    run(body)


def test_the_next_life_goes_on_and_marks_what_it_found(tmp_path: Path) -> None:
    async def body(kafka: Kafka) -> None:
        async def away(life: Life) -> None:
            kafka.away = True
            for number in (1, 2):
                await life.outbox.settle(window(number))

        async def back(life: Life) -> None:
            assert life.outbox.found_id == window(2).ledger.id
            kafka.away = False
            await life.outbox.settle(window(3))

        await Life(kafka, tmp_path).live(away, drain=False)
        await Life(kafka, tmp_path).live(back)
        assert kafka.windows() == both(1, repeat=True) + both(2, repeat=True) + both(3)

    run(body)


def test_a_full_spool_keeps_the_window_in_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.outbox.outbox._DISK_AGAIN_SECONDS", 0.02)

    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            kafka.away = True
            await life.outbox.settle(window(1))
            settling = asyncio.create_task(life.outbox.settle(window(2)))
            await until(lambda: life.metric("spool_failures_total") >= 2)
            assert not settling.done()
            assert "full, 700 bytes (--spool-size): windows grow" in life.service.health.reasons["spool"]
            assert life.metric("spool_usable") == 0
            kafka.away = False
            await settling
            assert "spool" not in life.service.health.reasons

        life = Life(kafka, tmp_path, limit=700)
        await life.live(script)
        assert [number for number, chunk, _ in kafka.windows() if chunk == 0] == [1, 2]

    run(body)


def test_a_damaged_file_is_lost_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    async def body(kafka: Kafka) -> None:
        async def away(life: Life) -> None:
            kafka.away = True
            for number in (1, 2, 3):
                await life.outbox.settle(window(number))

        async def back(life: Life) -> None:
            kafka.away = False

        await Life(kafka, tmp_path).live(away, drain=False)
        second = tmp_path / "000000000002.window"
        second.write_bytes(second.read_bytes()[:-20])
        third = tmp_path / "000000000003.window"
        third.write_bytes(b"\x1f\x8b nothing that could be read")
        life = Life(kafka, tmp_path)
        await life.live(back)
        assert kafka.windows() == both(1, repeat=True)
        first, lost = kafka.ledger()
        assert first.lost == {}
        given = window(2).ledger.given
        assert (lost.id, lost.given.bytes, lost.lost) == (window(2).ledger.id, 0, {"spool_damaged": given})
        assert lost.balance() is None
        assert life.metric("spool_damaged_files_total") == 2

    run(body)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000002.damaged", "000000000003.damaged"]


def _remove(path: Path) -> None:
    path.unlink()


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize("spoil", [_remove, _make_directory, _make_link])
def test_a_file_that_cannot_be_opened_holds_up_none_behind_it(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """As one on a bad sector: the disk says that it cannot be read whenever it is asked."""

    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            kafka.away = True
            for number in (1, 2):
                await life.outbox.settle(window(number))
            spoil(tmp_path / "000000000001.window")
            kafka.away = False

        life = Life(kafka, tmp_path)
        await life.live(script)
        assert [sequence for sequence, _, _ in kafka.windows()] == [2, 2]
        assert life.metric("spool_damaged_files_total") == 1
        assert (life.spool.used() == 0) == (spoil is _remove)

    run(body)
    assert not list(tmp_path.glob("*.window"))


def test_an_hour_without_kafka(tmp_path: Path) -> None:
    hour = 360

    async def body(kafka: Kafka) -> None:
        async def script(life: Life) -> None:
            kafka.away = True
            for number in range(1, hour + 1):
                assert not await life.outbox.settle(window(number))
            kafka.away = False

        life = Life(kafka, tmp_path)
        await life.live(script)
        found = kafka.windows()
        assert [(sequence, chunk) for sequence, chunk, _ in found] == [
            (number, chunk) for number in range(1, hour + 1) for chunk in (0, 1)
        ]
        assert sum(repeat for _, _, repeat in found) <= 4, "only what there was an attempt to publish"
        assert life.metric("spooled_windows_total") == life.metric("windows_total") == hour

    run(body)
