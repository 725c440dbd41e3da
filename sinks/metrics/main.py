# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run metrics`: wiring only."""

import asyncio
from functools import partial

from common.entry_point import entry_point
from common.errors import Refusal
from common.kafka import clients
from common.service import lifecycle
from common.service.running import Service
from prices.book import PriceBook
from prices.file import load_prices
from sinks.metrics.checkpoint import State
from sinks.metrics.ends import Ends
from sinks.metrics.settings import MetricsSettings
from sinks.metrics.sink import MetricsSink
from sinks.runner import Runner


@entry_point("run metrics", MetricsSettings)
def main(settings: MetricsSettings) -> int:
    """Run the metrics sink until told to stop; return the exit status."""
    return lifecycle.run("metrics", settings, lambda running: serve(running, settings))


async def serve(running: Service, settings: MetricsSettings) -> None:
    """Run one replica within a service."""
    running.health.starting("state", "reading what was counted before")
    prices = _prices(settings.prices)
    state = await asyncio.to_thread(State, settings.state_dir, settings.topics.enriched)
    try:
        sink = await asyncio.to_thread(MetricsSink, running, settings, state, prices)
        running.health.ready("state")
        owned = [p for p in range(settings.partitions) if p % settings.replicas == settings.replica_ordinal]
        new_consumer = partial(clients.new_consumer, settings, group_id=settings.group_id)
        runner = Runner(running, settings, sink, Ends().make, new_consumer, owned)
        # Last: a page that has what was counted before has all other metrics, too.
        running.render = sink.render
        await runner.run()
    finally:
        state.close()


def _prices(which: str | None) -> PriceBook | None:
    """Read the price file, if there is to be one; raise `Refusal` if it cannot be used."""
    if which is None:
        return None
    book = load_prices(which)
    if book.currency != "USD":
        raise Refusal(f"prices = {which!r} is in {book.currency}; the cost metrics are in USD, convert it")
    return book
