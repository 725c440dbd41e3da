# SPDX-License-Identifier: Apache-2.0
"""The topology topic's reader and writer, told to stop while Kafka is away: both end, and say nothing more."""

import asyncio
import contextlib

import pytest
from aiokafka.errors import KafkaError

from common.errors import Stopped
from common.kafka.protocol import connections
from common.kafka.publish import Publisher
from common.service.running import Service
from common.task_group import TaskGroup
from enricher.delivery import topology_topic
from enricher.delivery.topology_topic import TopologyTopic
from enricher.index.ownership import Index
from enricher.kube.cluster import ClusterView
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from tests.support.enricher.build import END, pod
from tests.support.enricher.topics import Topics
from tests.support.services import eventually


def parts() -> tuple[Service, TopologyTopic, Publisher, ClusterView]:
    service, index = Service("enricher"), Index()
    service.stopping.set()
    settings = EnricherSettings(kafka_bootstrap="127.0.0.1:1", kafka_deadline_seconds=1)
    cluster = ClusterView(index, live=True)
    topic = TopologyTopic(service, settings, cluster, EnricherMetrics(service.registry, index))
    return service, topic, Publisher(service, settings), cluster


def test_told_to_stop_is_no_failure_that_a_retry_would_mend() -> None:
    assert not issubclass(Stopped, OSError)


def test_who_follows_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async def follow() -> None:
        _, topic, _, _ = parts()
        await asyncio.wait_for(topic.follow(), 120)

    asyncio.run(follow())
    assert caplog.messages == []


def test_who_reads_what_was_before_does_not_wait_for_a_kafka_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read() -> None:
        service, topic, _, _ = parts()
        service.stopping.clear()

        async def silent(*_: object) -> None:
            service.stopping.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(topology_topic, "reader", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(topology_topic, "held", silent)
        with pytest.raises(Stopped):
            await asyncio.wait_for(topic.read_history(), 120)

    asyncio.run(read())


@pytest.mark.parametrize(
    ("error", "says"), [(TimeoutError(), "no answer"), (OSError("no\nroute"), "no route"), (KafkaError(), "KafkaError")]
)
def test_what_went_wrong_is_said_also_where_the_error_has_no_words(
    error: Exception, says: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([error, Stopped()])

    def fails(*_: object) -> None:
        raise next(errors)

    monkeypatch.setattr(topology_topic, "reader", fails)
    monkeypatch.setattr(topology_topic, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(connections, "why_not", lambda: None)
    _, topic, _, _ = parts()
    asyncio.run(topic.follow())
    assert caplog.messages == [f"zonemeter.topology.v1: {says}; retrying"]


def test_who_writes_ends_quietly_and_keeps_what_it_did_not_write(caplog: pytest.LogCaptureFixture) -> None:
    async def write() -> ClusterView:
        _, topic, publisher, cluster = parts()
        cluster.pending[b"pod/uid-api-1/100"] = pod("api-1", "10.42.1.17", "node-a1")
        await asyncio.wait_for(topic.write(publisher, lambda: True), 120)
        return cluster

    assert len(asyncio.run(write()).pending) == 1
    assert caplog.messages == []


@pytest.mark.parametrize(("others", "look_seconds"), [([], 0.2), (["other"], 3_600.0)])
def test_a_topic_that_was_recreated_is_written_whole_again(
    topics: Topics, others: list[str], look_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended states, too: a replay of the time before asks for them. And what others wrote there need not be written.

    What others wrote tells by its offset; where they wrote nothing, only looking does.
    """
    monkeypatch.setattr(topology_topic, "LOOK_SECONDS", look_seconds)
    name = topics.settings.topics.topology
    api, gone = pod("api-1", "10.42.1.17", "node-a1"), pod("gone", "10.42.1.18", "node-a1", to_ms=END)
    there = [pod(other, "10.42.1.19", "node-a1") for other in others]
    topics.produce_topology([api, gone])

    async def follow_and_write() -> ClusterView:
        service, index = Service("enricher"), Index()
        settings = EnricherSettings(**topics.settings.model_dump(), history_hours=1_000_000)
        metrics = EnricherMetrics(service.registry, index)
        cluster, publisher = ClusterView(index, live=True), Publisher(service, settings)
        topic = TopologyTopic(service, settings, cluster, metrics)
        await topic.read_history()
        async with TaskGroup() as tasks:
            beside = [tasks.create_task(topic.follow()), tasks.create_task(topic.write(publisher, lambda: True))]
            await asyncio.to_thread(topics.recreate, name)
            await asyncio.to_thread(topics.produce_topology, there)
            await asyncio.to_thread(eventually, lambda: len(topics.topology()) == 2 + len(there))
            await asyncio.to_thread(eventually, lambda: not cluster.pending)
            for task in beside:
                task.cancel()
        await publisher.close()
        return cluster

    cluster = asyncio.run(follow_and_write())
    assert {state.key: state for state in topics.topology()} == {state.key: state for state in (api, gone, *there)}
    assert cluster.pending == {}


def test_what_the_index_forgot_before_it_was_written_is_written_all_the_same() -> None:
    _, _, _, cluster = parts()
    ended, holds = pod("gone", "10.42.1.18", "node-a1", to_ms=END), pod("api-1", "10.42.1.17", "node-a1")
    cluster.load([ended, holds])
    cluster.pending[ended.key] = ended
    assert cluster.index.shrink(1) == 1
    cluster.write_again()
    assert cluster.pending == {ended.key: ended, holds.key: holds}
