# SPDX-License-Identifier: Apache-2.0
"""What goes out again after a publication that failed: what did not arrive, whatever others wrote in its name."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from common.clock import now_ms
from common.errors import PublishError
from common.kafka.publish import Record, Run
from enricher.delivery.outgoing import output, recovery
from enricher.delivery.outgoing.recovery import Tail, read_back
from enricher.delivery.outgoing.unit import Unit
from enricher.index.ownership import Index
from enricher.metrics import EnricherMetrics
from schemas.topics import TopicNames
from tests.support.enricher.build import END, chunk, row
from tests.support.enricher.joined import A1, A2, B1, WRITER, joined


class FailsOnce:
    """Stands where the publisher stands."""

    def __init__(self) -> None:
        self.taken: list[list[bytes]] = []

    async def publish(self, records: Sequence[Record | Run]) -> dict[tuple[str, int], int]:
        self.taken.append([value for record in records if isinstance(record, Run) for value in record.values])
        if len(self.taken) == 1:
            raise PublishError("no answer within the deadline")
        return {}


ROWS = [row(A1, B1, bytes=100), row(A1, A2, bytes=50), row(A1, B1, bytes=9)]
RAW = chunk(ROWS)
TRUE = list(joined(ROWS).values)


def forged(**changed: Any) -> bytes:
    return orjson.dumps(orjson.loads(TRUE[0]) | changed)


@pytest.mark.parametrize(
    ("arrived", "again", "foreign"),
    [
        pytest.param([], TRUE, 0, id="nothing"),
        pytest.param(TRUE[:2], TRUE[2:], 0, id="some"),
        pytest.param([forged(id=f"{RAW.id}/2")], TRUE, 1, id="somebody's, with the last number"),
        pytest.param([*TRUE[:1], forged(id=f"{RAW.id}/2")], TRUE, 1, id="some, and somebody's"),
        pytest.param(TRUE[2:], TRUE, 0, id="the last row alone, as if we had written it"),
        pytest.param([forged(bytes=1)], TRUE, 1, id="somebody's, with other bytes"),
    ],
)
def test_what_arrived_is_not_sent_again_if_it_is_of_the_chunk(
    monkeypatch: pytest.MonkeyPatch, arrived: list[bytes], again: list[bytes], foreign: int
) -> None:
    async def read_tail(*_: Any) -> Tail:
        tail = Tail(end=9)
        for value in arrived:
            tail.add(read_back(value, b"node-a1", 3))
        return tail

    monkeypatch.setattr(recovery, "read_tail", read_tail)
    registry, publisher = CollectorRegistry(), FailsOnce()
    deps: Any = SimpleNamespace(
        service=None,
        settings=SimpleNamespace(topics=TopicNames()),
        metrics=EnricherMetrics(registry, Index()),
        cluster=SimpleNamespace(clock=now_ms),
    )
    there: Any = publisher
    unit = Unit(runs=[WRITER.flows(RAW, joined(ROWS), END)], books=[Record("ledger", 3, b"", b"", END)])
    asyncio.run(output.Output(deps, there, 3).publish(unit))
    assert publisher.taken == [TRUE, again, []]
    assert registry.get_sample_value("zonemeter_enricher_foreign_output_chunks_total") == foreign
