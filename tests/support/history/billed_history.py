# SPDX-License-Identifier: Apache-2.0
"""The traffic of `history/bills` as the pipeline would have left it in the topics: flows, ledger, topology."""

import asyncio
from collections.abc import Collection, Iterator
from typing import NamedTuple

from common.kafka import clients
from schemas.amount import Amount
from schemas.flow import Cloud, Endpoint, Flow, Kubernetes, Named, Observer
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.topology import encode_topology
from tests.support.history.bills import ZONES, Truth, states
from tests.support.sinks import flows
from tests.support.sinks.topics import PARTITIONS, Topics

WINDOWS = 12  # in each period


class _Made(NamedTuple):
    topic: str
    key: bytes
    value: bytes
    partition: int
    timestamp_ms: int


def publish(topics: Topics, truth: Truth, unmetered: Collection[tuple[str, int]] = (), provider: str = "aws") -> None:
    """Publish what nodes sent each other, evenly over each period's windows, but for some (node, window)."""
    asyncio.run(_publish(topics, [*_topology(topics, provider), *_windows(topics, truth, unmetered)]))


def _topology(topics: Topics, provider: str) -> Iterator[_Made]:
    for state in states(provider):
        yield _Made(topics.settings.topics.topology, state.key, encode_topology(state), 0, state.from_ms)


def _windows(topics: Topics, truth: Truth, unmetered: Collection[tuple[str, int]]) -> Iterator[_Made]:
    names = topics.settings.topics
    length = truth.length_ms // WINDOWS
    begins = sorted({at for at, *_ in truth.sent})
    for number, begin in enumerate(begins):
        for window in range(WINDOWS):
            sequence, start = number * WINDOWS + window, begin + window * length
            for node in ZONES:
                if (node, sequence) in unmetered:
                    continue
                rows = [(to, size) for at, source, to, size in truth.sent if (at, source) == (begin, node)]
                partition, key = clients.partition_for(node, PARTITIONS), node.encode()
                place = {"start_ms": start, "end_ms": start + length, "partition": partition}
                amount = Amount(sum(_part(size, window) for _, size in rows), len(rows), len(rows))
                for entry in _entries(node, sequence, amount, place):
                    yield _Made(names.ledger, entry.key, encode_ledger(entry), partition, start + length)
                for row, (to, size) in enumerate(rows):
                    flow = _flow(node, to, sequence, row, _part(size, window), start, start + length)
                    yield _Made(names.enriched, key, flows.encoded(flow), partition, start + length)


def _part(size: int, window: int) -> int:
    return size // WINDOWS + (size % WINDOWS if window == 0 else 0)


def _entries(node: str, sequence: int, amount: Amount, place: dict[str, int]) -> Iterator[LedgerRecord]:
    window = f"lab/{node}/{flows.BOOT}/1/{sequence}"
    for hop, id_, more in (("collector", window, {"node": node, "chunks": 1}), ("enricher", f"{window}/0", {})):
        yield LedgerRecord(hop=hop, id=id_, taken=amount, given=amount, **place, **more)  # type: ignore[arg-type]


def _flow(node: str, to: str, sequence: int, row: int, size: int, start: int, end: int) -> Flow:
    return flows.flow(
        id=flows.flow_id(sequence, row, node),
        start_ms=start,
        end_ms=end,
        bytes=size,
        packets=1,
        source=_end(node),
        destination=_end(to),
        observer=Observer(node, flows.cloud(ZONES[node])),
    )


def _end(node: str) -> Endpoint:
    k8s = Kubernetes(namespace=Named("shop"), pod=Named("<b>api&-0"), node=Named(node))
    return Endpoint(kind="pod", k8s=k8s, cloud=Cloud(availability_zone=ZONES[node], region="eu-west-1"))


async def _publish(topics: Topics, records: list[_Made]) -> None:
    producer = clients.new_producer(topics.settings)
    await producer.start()
    try:
        for record in records:
            where = {"partition": record.partition, "timestamp_ms": record.timestamp_ms}
            await producer.send(record.topic, record.value, key=record.key, **where)
        await producer.flush()
    finally:
        await producer.stop()
