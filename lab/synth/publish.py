# SPDX-License-Identifier: Apache-2.0
"""A made-up cluster's states and windows, published: each window by itself, as the collector of its node would."""

from asyncio import sleep
from collections.abc import Iterable
from itertools import islice

from collector.outbox.publish import WindowPublisher
from common.clock import now_ms
from common.errors import PublishError, Refusal, leaves
from common.kafka import clients, topic_admin
from common.kafka.publish import Publisher, Record
from common.service.running import Service
from common.settings import KafkaSettings
from common.task_group import TaskGroup
from lab.synth.traffic import WINDOW_MS, Traffic
from schemas.topics import topic_specs
from schemas.topology import TopologyState, encode_topology

# Collectors that publish at the same time.
_AT_ONCE = 48
_STATES_AT_ONCE = 5_000


async def publish(settings: KafkaSettings, traffic: Traffic, windows: range, *, live: bool = False) -> None:
    """Publish all nodes' windows of the first of these numbers, all of the second, ...; before number 0 the states.

    `live`: each when it has ended. Raises `Refusal` if Kafka does not take them or its topics are not there.
    """
    await _check_topics(settings)
    publisher = Publisher(Service("synth"), settings)
    windows_of = WindowPublisher(publisher, settings.topics, settings.partitions)
    nodes = traffic.cluster.nodes
    try:
        if 0 in windows:
            await _publish_states(settings, publisher, traffic.cluster.states())
        for number in windows:
            if live:
                ends_ms = traffic.begin_ms + (number + 1) * WINDOW_MS
                await sleep((ends_ms - now_ms()) / 1000)
            async with TaskGroup() as tasks:
                for first in range(min(_AT_ONCE, nodes)):
                    each = range(first, nodes, _AT_ONCE)
                    tasks.create_task(_publish_windows(windows_of, traffic, each, number), name=f"collectors-{first}")
    except (PublishError, ExceptionGroup) as error:
        failed = next((leaf for leaf in leaves(error) if isinstance(leaf, PublishError)), None)
        if failed is None:
            raise
        raise Refusal(f"Kafka does not take it: {failed}") from error
    finally:
        await publisher.close()


async def _publish_windows(publisher: WindowPublisher, traffic: Traffic, nodes: Iterable[int], number: int) -> None:
    for node in nodes:
        await publisher.publish(traffic.window(node, number), maybe_repeat=False)


async def _publish_states(settings: KafkaSettings, publisher: Publisher, states: Iterable[TopologyState]) -> None:
    topic = settings.topics.topology
    left, now = iter(states), now_ms()
    while part := list(islice(left, _STATES_AT_ONCE)):
        await publisher.publish([Record(topic, 0, state.key, encode_topology(state), now) for state in part])


async def _check_topics(settings: KafkaSettings) -> None:
    specs = topic_specs(settings.topics, partitions=settings.partitions)
    clients.client_options(settings)
    async with topic_admin.admin_client(settings) as admin:
        for state in await topic_admin.describe(admin, specs):
            if state.partitions != state.spec.partitions:
                if state.partitions is None:
                    raise Refusal(f"topic {state.spec.name} does not exist; run zonemeter topics apply")
                raise Refusal(
                    f"topic {state.spec.name} has {state.partitions} partitions; run it with --partitions "
                    f"{state.partitions}"
                )
