# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run flowlog`: wiring only."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from common.entry_point import entry_point
from common.errors import Stopped
from common.kafka import clients
from common.service import lifecycle
from common.service.running import Service
from schemas.flow import Endpoint
from sinks.flowlog.archive.archive import Archive
from sinks.flowlog.archive.pending import Buffer
from sinks.flowlog.rows import jsonl, parquet
from sinks.flowlog.rows.columns import FlatEnd, flatten, flatten_values
from sinks.flowlog.settings import STDOUT, FlowlogSettings
from sinks.flowlog.sink import ArchiveSink
from sinks.flowlog.stdout import StdoutSink
from sinks.flowlog.stores.opening import open_store
from sinks.kafka_io import RETRY_SECONDS
from sinks.runner import Runner
from sinks.sink import Sink

log = logging.getLogger(__name__)

FORMATS: dict[str, tuple[str, Callable[[], Buffer]]] = {
    "jsonl": (jsonl.SUFFIX, jsonl.JsonLines),
    "parquet": (parquet.SUFFIX, parquet.ParquetRows),
}
ENDS: dict[str, Callable[[Endpoint], FlatEnd]] = {"jsonl": flatten, "parquet": flatten_values}


@entry_point("run flowlog", FlowlogSettings)
def main(settings: FlowlogSettings) -> int:
    """Run the flow log until told to stop; return the exit status."""
    return lifecycle.run("flowlog", settings, lambda running: write(running, settings))


async def write(running: Service, settings: FlowlogSettings) -> None:
    """Run one replica within a service."""
    running.health.starting("output", "not opened yet")
    try:
        sink = await _opened(running, settings)
    except Stopped as error:
        log.info("%s", error)
        return
    running.health.ready("output")
    new_consumer = partial(
        clients.new_consumer,
        settings,
        group_id=settings.group_id,
        group_instance_id=settings.group_instance_id,
        session_timeout_ms=int(settings.session_timeout_seconds * 1000),
    )
    version, make_end = settings.attribution_version, ENDS[settings.format]
    await Runner(running, settings, sink, make_end, new_consumer, attribution_version=version).run()


async def _opened(running: Service, settings: FlowlogSettings) -> Sink[FlatEnd, Any]:
    """Open the output, however long it takes an object store to answer; raise `Stopped` once told to stop."""
    while not running.stopping.is_set():
        try:
            return await asyncio.to_thread(_open, settings)
        except OSError as error:
            running.health.waiting("output", f"output = {settings.output!r}: {error}; retrying")
            await running.pause(RETRY_SECONDS)
    raise Stopped("told to stop before the output could be opened")


def _open(settings: FlowlogSettings) -> Sink[FlatEnd, Any]:
    if settings.output == STDOUT:
        return StdoutSink(settings)
    suffix, new_buffer = FORMATS[settings.format]
    store, topic = open_store(settings.output), settings.topics.enriched
    archive = Archive(store, topic, suffix, settings.attribution_version)
    archive.check()
    return ArchiveSink(settings, archive, new_buffer)
