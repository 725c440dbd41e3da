# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run metrics`: wiring only."""

import asyncio

from common.errors import Refusal, Stopped
from common.kafka.publish import Publisher
from common.service import lifecycle
from common.service.lifecycle import Service
from common.settings import load
from common.task_group import TaskGroup
from prices.book import PriceBook
from prices.file import load_prices
from sinks import gc_settings
from sinks.metrics.checkpoint import State
from sinks.metrics.settings import MetricsSettings
from sinks.metrics.sink import MetricsSink


def main(argv: list[str]) -> int:
    """Run the metrics sink until told to stop; return the exit status."""
    settings = load(MetricsSettings, "metrics", argv)

    async def body(running: Service) -> None:
        await serve(running, settings)

    return lifecycle.run("metrics", settings, body)


async def serve(running: Service, settings: MetricsSettings) -> None:
    """Run one replica within a service."""
    running.health.starting("state", "reading what was counted before")
    prices = _prices(settings.prices)
    state = await asyncio.to_thread(State, settings.state_dir, settings.topics.enriched)
    publisher = Publisher(running, settings)
    try:
        sink = MetricsSink(running, settings, state, publisher, prices)
        await sink.restore()
        running.health.ready("state")
        gc_settings.settle()
        async with TaskGroup() as tasks:
            watching = tasks.create_task(sink.watch.run(), name="watch-lag")
            try:
                await sink.run()
            except Stopped:
                # What is not in a checkpoint will be read again.
                return
            finally:
                watching.cancel()
    finally:
        await publisher.close()
        state.close()


def _prices(which: str | None) -> PriceBook | None:
    """Read the price file, if there is to be one; raise `Refusal` if it cannot be used."""
    if which is None:
        return None
    book = load_prices(which)
    if book.currency != "USD":
        raise Refusal(f"prices = {which!r} is in {book.currency}; the cost metrics are in USD, convert it")
    return book
