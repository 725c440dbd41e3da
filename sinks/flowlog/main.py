# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run flowlog`: wiring only."""

import asyncio
import logging
from collections.abc import Callable

from common.errors import Stopped
from common.kafka.publish import Publisher
from common.service import lifecycle
from common.service.lifecycle import Service
from common.settings import load
from common.task_group import TaskGroup
from sinks import gc_settings
from sinks.flowlog import jsonl, parquet
from sinks.flowlog.archive import Archive
from sinks.flowlog.pending import Buffer
from sinks.flowlog.settings import STDOUT, FlowlogSettings
from sinks.flowlog.sink import FlowlogSink, Output
from sinks.flowlog.stdout import Stdout
from sinks.flowlog.store import open_store

log = logging.getLogger(__name__)

FORMATS: dict[str, tuple[str, Callable[[], Buffer]]] = {
    "jsonl": (jsonl.SUFFIX, jsonl.JsonLines),
    "parquet": (parquet.SUFFIX, parquet.ParquetRows),
}


def main(argv: list[str]) -> int:
    """Run the flow log until told to stop; return the exit status."""
    settings = load(FlowlogSettings, "flowlog", argv)

    async def body(running: Service) -> None:
        await write(running, settings)

    return lifecycle.run("flowlog", settings, body)


async def write(running: Service, settings: FlowlogSettings) -> None:
    """Run one replica within a service."""
    running.health.starting("output", "not opened yet")
    suffix, new_buffer = FORMATS[settings.format]
    output = await asyncio.to_thread(_open, settings, suffix)
    running.health.ready("output")
    publisher = Publisher(running, settings)
    sink = FlowlogSink(running, settings, output, new_buffer, publisher)
    gc_settings.settle()
    try:
        async with TaskGroup() as tasks:
            watching = tasks.create_task(sink.watch.run(), name="watch-lag")
            try:
                await sink.run()
            except Stopped as error:
                # What is in no manifest will be read again.
                log.info("%s", error)
            finally:
                watching.cancel()
    finally:
        await publisher.close()


def _open(settings: FlowlogSettings, suffix: str) -> Output:
    if settings.output == STDOUT:
        return Stdout()
    return Archive(open_store(settings.output), settings.topics.enriched, suffix)
