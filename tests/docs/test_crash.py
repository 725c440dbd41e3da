# SPDX-License-Identifier: Apache-2.0
"""The worked crash of docs/delivery.md: its ids and offsets are those of a run."""

import asyncio
import json
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from common.kafka import clients
from lab.kafka.broker import Broker
from tests.docs.printed.commands import ROOT
from tests.support.enricher.build import encoded, row
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import eventually


def window(sequence: int) -> bytes:
    """Three requests of the API to the database, and what it received from there: the database's node counts that."""
    sent = [row("10.42.1.17", "10.42.2.9", dst_port=5432 + i, bytes=1000 + i) for i in range(3)]
    received = row("10.42.2.9", "10.42.1.17", src_port=5432, dst_port=0, direction=1, bytes=77)
    return encoded([*sent, received], sequence=sequence)


def committed(topics: Topics) -> tuple[int, str]:
    """Return the enricher's offset in the raw topic, and what it stored beside it."""

    async def ask() -> tuple[int, str]:
        where = TopicPartition(topics.settings.topics.raw, 0)
        admin = AIOKafkaAdminClient(**clients.client_options(topics.settings))
        await admin.start()
        try:
            group = f"{topics.settings.topic_prefix}enricher"
            found = (await admin.list_consumer_group_offsets(group, partitions=[where])).get(where)
        finally:
            await admin.close()
        return (found.offset, found.metadata) if found else (-1, "")

    return asyncio.run(ask())


def state(topics: Topics, when: str) -> str:
    """Return a line of the page's table."""
    offset, beside = committed(topics)
    out = topics.records(topics.settings.topics.enriched)
    last = json.loads(out[-1].value)["id"]
    return f"{when:<24}{offset:>3}  {beside:<12}  {out[-1].offset:>2}  {last}  {len(topics.ledger()):>2}"


def test_the_worked_crash_is_what_happens(broker: Broker, tmp_path: Path) -> None:
    topics = Topics.make(broker.bootstrap)
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--group-instance-id", "one"]
    topics.produce([window(41)])
    with running(flags, tmp_path / "log", "after-flows:2") as doomed:
        eventually(lambda: len(topics.ledger()) == 1)
        eventually(lambda: committed(topics)[0] == 1)
        lines = [state(topics, "window 41 is committed")]
        topics.produce([window(42)])
        assert doomed.wait() == -9
    lines.append(state(topics, "killed in window 42"))
    with running(flags, tmp_path / "again") as enricher:
        eventually(lambda: committed(topics)[0] == 2)
        assert enricher.metric("flows_total", "cross_zone") == 0
    lines.append(state(topics, "after the restart"))
    assert '"chunks_already_out":1' in (tmp_path / "again").read_text()
    page = (ROOT / "docs/delivery.md").read_text()
    assert [line for line in lines if line not in page] == []
