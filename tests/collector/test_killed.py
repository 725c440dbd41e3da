# SPDX-License-Identifier: Apache-2.0
"""The whole collector, killed before each thing that it changes in the kernel, on disk or in Kafka, one by one.

Kafka is away when a life begins and comes back in it, so the steps are those of flip, barrier, drain, spool, publish,
acknowledge and clear. What SIGKILL does is done by raising: no step is taken after it by any thread.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from collector import collect
from collector.collect import Collector
from collector.kernel import pins
from collector.kernel.load_request import Answer, Request
from collector.outbox import outbox
from collector.settings import CollectorSettings
from common.errors import PublishError
from common.kafka.publish import Record
from common.service.backoff import Backoff
from common.service.running import Service
from common.task_group import TaskGroup
from schemas.ledger import decode_ledger
from tests.collector.window.test_windows import Killed, Node, check_node
from tests.support.collector import metered, netlab

BOOT_ID = "0123456789ab"


class Lives(Node):
    """Many lives of one node's collector; `published` holds what Kafka took, `ledger` by window the last entry."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        super().__init__(name, monkeypatch)
        self.life.guard(monkeypatch, os, "fsync")
        self.life.guard(monkeypatch, Path, "rename")
        self.settings = CollectorSettings(
            node="node1", cluster="test", pin_dir=self.root, spool_dir=directory / "spool"
        )
        self.away = False
        self.ledger: dict[str, bool] = {}

    async def publish(self, records: Sequence[Record]) -> None:
        if self.away:
            raise PublishError("no answer within the deadline")
        for record in records:
            self.life.step()
            if record.topic == self.settings.topics.raw:
                self.published.append(record.value or b"")
            else:
                entry = decode_ledger(record.value)
                self.ledger[entry.id] = entry.balance() is None

    def live(self, *, away: bool) -> None:
        """One life, from start to SIGTERM; raises `Killed`."""
        self.away = away
        try:
            netlab.inside("node1", lambda: asyncio.run(self._live()))
        except BaseExceptionGroup as group:
            if group.split(Killed)[1] is not None:
                raise
            raise Killed from None

    async def _live(self) -> None:
        collector = Collector(self.settings, Service("collector"), self)
        try:
            await collector.attach(BOOT_ID)
            async with TaskGroup() as tasks:
                sending = tasks.create_task(collector.send(_at_once))
                await collector.close_windows()
                sending.cancel()
        finally:
            await collector.close()

    async def next_end_ms(self) -> int | None:
        """End three windows, the last with Kafka back, and then the life."""
        self.windows += 1
        self.send(3)
        if self.windows == 3:
            self.away = False
        return metered.now_ms() if self.windows <= 3 else None


async def _at_once() -> None:
    """No topics to wait for."""


@pytest.fixture
def node(nodes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lives]:
    made = Lives("killed", monkeypatch, tmp_path)
    answer = metered.load("node1", made.request)

    async def load(_: Request) -> Answer:
        made.windows = 0
        active = pins.active_generation(made.root)
        return Answer(answer.generation, active=active == answer.generation)

    monkeypatch.setattr(collect, "load", load)
    monkeypatch.setattr(Collector, "_next_end_ms", lambda _: made.next_end_ms())
    monkeypatch.setattr(outbox, "Backoff", partial(Backoff, 0.002, 0.01))
    monkeypatch.setattr(collect, "_PATIENCE", 0.001)
    try:
        yield made
    finally:
        pins.detach(made.root)


def test_killed_before_every_step_with_kafka_away_and_back(node: Lives) -> None:
    node.live(away=True)
    steps = 0
    while not node.survive(steps, lambda: node.live(away=True)):
        node.live(away=steps % 2 == 0)
        steps += 1
    assert steps > 40
    chunks = check_node(node)
    assert {chunk.id.removesuffix("/0") for chunk in chunks} == set(node.ledger)
    assert all(node.ledger.values())
    spool = node.settings.spool_dir
    assert [path for path in spool.rglob("*") if path.is_file()] == []
