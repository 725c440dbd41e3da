# SPDX-License-Identifier: Apache-2.0
"""`make bench-collector`: what a window of 100,000 flows costs from the kernel's map to Kafka's acknowledgement.

CPU seconds of this process, user and system, in all its threads. *Ours* is what a collector does with a closed window:
drain and sort, encode, publish to a real broker (zstd, all replicas' acknowledgement), with the ledger's entry.
*Yardstick* is the batch lookup of the same full map alone, into memory that is thrown away. The broker is a process
of its own and not in it; clearing the map afterwards is not either, and stands in the hook's table of a full map.
What a collector holds in memory is a table of its own.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from bench.kafka import pipeline
from bench.measure import report
from bench.measure.figure import Figure, Target
from bench.measure.report import Table
from bench.node import crossing, resident
from bench.node.attached import Variant, variant
from bench.node.crossing import UDP
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import layout, pins
from collector.outbox.publish import WindowPublisher, encoded
from collector.window.meter import Window
from common.clock import now_ms
from common.kafka.publish import Publisher
from common.service.running import Service
from common.settings import KafkaSettings

_FLOWS = 100_000
_LOOKUP = 16_384
_TARGET_RATIO, _TARGET_SECONDS = 8.0, 1.0


def measure(rounds: int) -> Sequence[Table]:
    """Return the tables of a window's cost and of memory."""
    with crossing.built(conntrack=False) as out:
        held = resident.measure(rounds, out)
        with pipeline.broker() as bootstrap:
            taken = asyncio.run(_rounds(rounds, bootstrap, out))
    whole = [drain + rest for drain, rest, _ in taken]
    lookups = [lookup for _, _, lookup in taken]
    figures = [
        Figure("drain and sort", "CPU s", [drain for drain, _, _ in taken], lookups),
        Figure("encode and publish", "CPU s", [rest for _, rest, _ in taken], lookups),
        Figure("together", "CPU s", whole, lookups, target=Target(_TARGET_RATIO)),
        Figure("together, by itself", "CPU s", whole, target=Target(_TARGET_SECONDS)),
    ]
    return [Table("A window of 100,000 flows", (__doc__ or "").partition("\n\n")[2], figures), held]


async def _rounds(rounds: int, bootstrap: str, out: socket.socket) -> list[tuple[float, float, float]]:
    """Return CPU seconds of drain, of encoding and publishing, and of the lookup alone; a first round is not kept."""
    settings = KafkaSettings(kafka_bootstrap=bootstrap, partitions=1)
    await pipeline.make_topics(settings)
    publisher = Publisher(Service("collector"), settings)
    await publisher.start()
    windows = WindowPublisher(publisher, settings.topics, settings.partitions)
    packets = crossing.frames(UDP, _FLOWS)
    try:
        with variant("drain") as program:
            taken = [await _round(program, windows, packets, out) for _ in range(rounds + 1)]
    finally:
        await publisher.close()
    return taken[1:]


async def _round(
    program: Variant, windows: WindowPublisher, packets: Sequence[bytes], out: socket.socket
) -> tuple[float, float, float]:
    with program.counting():
        crossing.send(out, packets, _FLOWS)
    window = program.meter.flip(now_ms())
    lookup = _cpu(lambda: _look_up(program, window))
    begun = time.process_time()
    rows = window.rows()
    drained = time.process_time()
    await windows.publish(encoded(window, rows), maybe_repeat=False)
    published = time.process_time()
    program.meter.finish(window)
    if len(rows) < _FLOWS:  # a few of the devices' own, such as router solicitations, may be there too
        raise RuntimeError(f"the map holds {len(rows):,} flows of {_FLOWS:,}: something before the hook drops packets")
    return drained - begun, published - drained, lookup


def _look_up(program: Variant, window: Window) -> None:
    keys, tallies = np.empty(_LOOKUP, layout.KEY), np.empty(_LOOKUP, layout.TALLY)
    path = pins.generation_dir(program.root, program.generation) / f"flows{window.epoch}"
    with pins.closing_fd(sys_bpf.obj_get(str(path))) as fd:
        cursor: int | None = None
        while True:
            _, cursor = sys_bpf.lookup_batch(fd, cursor, keys.ctypes.data, tallies.ctypes.data, _LOOKUP)
            if cursor is None:
                return


def _cpu(call: Callable[[], None]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


if __name__ == "__main__":
    sys.exit(report.main("collector", "The collector", measure))
