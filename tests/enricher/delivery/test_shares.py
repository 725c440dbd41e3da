# SPDX-License-Identifier: Apache-2.0
"""What the enricher gives each step of ending, where a silent Kafka makes each take all that it may."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from common.kafka import clients
from common.service.running import Service
from enricher.delivery import pipeline
from enricher.delivery.pipeline import Pipeline, Shares


@pytest.mark.parametrize("drain_seconds", [10, 13, 20, 28, 60, 600])
def test_what_ends_before_the_publisher_leaves_it_time(drain_seconds: float) -> None:
    finish, cancel, leave = Shares.of(drain_seconds)
    assert finish + cancel + leave + min(leave, 1) <= drain_seconds - 1
    assert finish <= 15


def test_told_to_stop_it_takes_its_shares_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    async def nothing(*_: object) -> None:
        pass

    async def started(*_: object) -> Any:
        return SimpleNamespace(subscribe=lambda *_, **__: None)

    async def stop_workers(_: Pipeline, shares: Shares) -> None:
        given.append(shares)

    async def close(_: object, seconds: float) -> None:
        given.append(seconds)

    async def run() -> None:
        service = Service("enricher")
        settings = SimpleNamespace(drain_seconds=13.0, topics=SimpleNamespace(raw="raw"))
        made = Pipeline(SimpleNamespace(service=service, settings=settings, partitions=SimpleNamespace(keep=set)))  # type: ignore[arg-type]
        service.stopping.set()
        await made._session()

    monkeypatch.setattr(pipeline, "refuse_others", nothing)
    monkeypatch.setattr(clients, "start", started)
    monkeypatch.setattr(clients, "close", close)
    monkeypatch.setattr(Pipeline, "_watch", nothing)
    monkeypatch.setattr(Pipeline, "stop_workers", stop_workers)
    asyncio.run(run())
    assert given == [Shares.of(13.0), Shares.of(13.0).leave]
