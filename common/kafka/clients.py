# SPDX-License-Identifier: Apache-2.0
"""Kafka clients set up alike: idempotent producers, manual commits, topics checked, deadlines everywhere.

What aiokafka 0.14 does not do by itself: its `start` tries each broker once; an idempotent producer's sends,
`flush` and `stop` wait forever when no broker answers (aiokafka issue 1101); after a batch that cannot be
retried every later send to that partition fails until the producer is recreated (issue 1017).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from shlex import quote
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    ProducerClosed,
    RequestTimedOutError,
)
from aiokafka.partitioner import murmur2
from aiokafka.structs import ConsumerRecord

from common.errors import Stopped
from common.kafka.auth import credentials
from common.kafka.protocol import connections, fetching
from common.service.backoff import Backoff
from common.service.running import Service
from common.settings import KafkaSettings
from common.terminal import command

log = logging.getLogger(__name__)

fetching.install()
connections.install()

T = TypeVar("T")

# What aiokafka says where it has no connection, or nobody answers on one.
_AWAY = (KafkaConnectionError, NodeNotReadyError, KafkaTimeoutError, RequestTimedOutError, TimeoutError)
# One Kafka batch; the broker's limit (message.max.bytes, 1 MiB by default) is on the compressed batch.
MAX_BATCH_BYTES = 512 * 1024
# How soon a topic that was recreated is noticed: a group whose topic is gone assigns nothing until somebody looks.
# aiokafka looks every 5 minutes.
METADATA_MS = 15_000
# How often a service looks whether its topics are still there.
_TOPICS_SECONDS = 5.0
# Beyond its own timeout, how long a fetch may wait for a group that shares its partitions out.
_GROUP_SECONDS = 0.5


def partition_for(node: str, partitions: int) -> int:
    """Return the partition of a node's records: murmur2 of its name, positive, as Kafka's own default is."""
    return int(murmur2(node.encode()) & 0x7FFFFFFF) % partitions


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the arguments that every aiokafka client takes; raise `Refusal` for files that cannot be used."""
    known = credentials.of(settings)
    return {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": int(settings.kafka_deadline_seconds * 1000),
        "client_id": "zonemeter",
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        # A client insists on having these; its connections ask for new ones.
        "ssl_context": known.tls(),
        "sasl_plain_password": known.password(),
        "sasl_oauth_token_provider": known,
    }


class Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka ships no types
    """A producer that goes on asking for every topic that it sends to.

    aiokafka asks for the topics that it did not know when it sent to them. Where an early answer had named all topics,
    the first new one made it ask for that one alone, and what waited for the others failed: no leader.
    """

    async def send(self, topic: str, *record: Any, **options: Any) -> Any:
        """Send as aiokafka does."""
        self.client.add_topic(topic)
        return await super().send(topic, *record, **options)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        """Send as aiokafka does."""
        self.client.add_topic(topic)
        return await super().send_batch(batch, topic, partition=partition)


def new_producer(settings: KafkaSettings, **overrides: Any) -> Producer:
    """Make a producer, not started: idempotent, acks=all, zstd."""
    options = {
        "enable_idempotence": True,
        "acks": "all",
        "compression_type": "zstd",
        "linger_ms": 20,
        "max_batch_size": MAX_BATCH_BYTES,
        "max_request_size": 2 * MAX_BATCH_BYTES,
    }
    return Producer(**client_options(settings), **(options | overrides))


def new_consumer(settings: KafkaSettings, **overrides: Any) -> AIOKafkaConsumer:
    """Make a consumer, not started: no auto-commit, from the earliest record where no position is known."""
    options = {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "client_rack": settings.kafka_client_rack,
        "metadata_max_age_ms": METADATA_MS,
        "fetch_max_bytes": 8 * 1024 * 1024,
        "max_partition_fetch_bytes": 2 * 1024 * 1024,
    }
    return AIOKafkaConsumer(**(client_options(settings) | options | overrides))


async def start(service: Service, settings: KafkaSettings, make: Callable[[], T]) -> T:
    """Make and start a client, again and again with back-off until it works; the service is not ready meanwhile.

    Raises `asyncio.CancelledError` as usual, and `Stopped` if the service is told to stop before.
    """
    backoff = Backoff()
    while not service.stopping.is_set():
        client: Any = make()
        try:
            async with asyncio.timeout(settings.kafka_deadline_seconds):
                await service.unless_stopped(client.start())
        except Stopped:
            await close(client)
        except (KafkaError, OSError, TimeoutError) as error:
            await close(client)
            away(service, settings, reason(error))
            await service.pause(backoff.next_seconds(asyncio.get_running_loop().time()))
        else:
            service.health.ready("kafka")
            return client  # type: ignore[no-any-return]
    raise Stopped("told to stop before Kafka was reached")


def away(service: Service, settings: KafkaSettings, why: str) -> None:
    """Let the service not be ready, and say why Kafka does not do what it should."""
    service.health.waiting("kafka", f"Kafka at {settings.kafka_bootstrap}: {why}; retrying")


async def fetch(
    consumer: AIOKafkaConsumer, *partitions: TopicPartition, seconds: float, max_records: int | None = None
) -> dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]:
    """Return the records at hand, or those that come in time; none while a group shares its partitions out.

    Of all there is about `fetching.MAX_FETCH_BYTES`; the rest comes with the next call. `getmany` itself waits for the
    group without end, whatever its timeout: for as long as another member keeps it waiting. Nothing is lost when it is
    cancelled: it takes records out of its buffer at the very end.
    """
    try:
        with fetching.budget():
            async with asyncio.timeout(seconds + _GROUP_SECONDS):
                found: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] = await consumer.getmany(
                    *partitions, timeout_ms=int(seconds * 1000), max_records=max_records
                )
                return found
    except TimeoutError:
        return {}


async def close(client: Any, seconds: float = 5.0) -> None:
    """Stop a client within a deadline; what it still held is given up (see the module's first lines)."""
    stop: Callable[[], Awaitable[None]] = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    if not await _ends(stop(), seconds):
        # A client that fails while it stops leaves its connections, and a task that looks for brokers, forever.
        connections = client.client if isinstance(client, AIOKafkaProducer) else client._client  # noqa: SLF001
        await _ends(connections.close(), seconds)


async def abandon(producer: AIOKafkaProducer, seconds: float = 2.0) -> None:
    """End a producer within a deadline, whatever it still holds: nothing of it is sent any more.

    aiokafka's own `stop` first sends all that is pending. Cancelled meanwhile it leaves its sender running, which
    reconnects on its own: batches that were given up long ago would arrive behind those that took their place.
    """
    sender: Any = producer._sender  # noqa: SLF001
    task: asyncio.Task[None] | None = sender and sender.sender_task
    producer._closed = True  # noqa: SLF001
    if task is not None:
        task.cancel()
    # What is in flight fails when its connection goes, and the sender, which waits for it, can end.
    await _ends(producer.client.close(), seconds)
    if task is not None and (await asyncio.wait({task}, timeout=seconds))[1]:
        task.cancel()  # this time it reaches what the sender waits for
        await asyncio.wait({task}, timeout=seconds)
    _fail_pending(producer._message_accumulator)  # noqa: SLF001


def _fail_pending(accumulator: Any) -> None:
    """Fail the futures of batches that will not be sent, so that nothing waits for them."""
    pending = [batch for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001
    pending += accumulator._pending_batches  # noqa: SLF001
    # What was sent once and queued again is in neither place where its own callback expects it.
    accumulator._pending_batches.update(pending)  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    for batch in pending:
        for future in (batch.future, batch._drain_waiter):  # noqa: SLF001
            if future.done() and not future.cancelled():
                future.exception()  # else asyncio complains of those that nobody waits for


async def _ends(stopping: Awaitable[None], seconds: float) -> bool:
    """Return whether it ends in time and without an error.

    Not `asyncio.wait_for`: aiokafka's consumer awaits tasks that it has cancelled, so that its `stop` may raise
    `CancelledError` although nobody cancelled us.
    """
    task = asyncio.ensure_future(stopping)
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=min(seconds, 1.0))
        return False
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, KafkaError | OSError):
        raise error
    if error is not None or task.cancelled():
        log.debug("client did not stop cleanly: %s", reason(error or asyncio.CancelledError()))
        return False
    return True


async def wait_for_topics(service: Service, settings: KafkaSettings, wanted: dict[str, int]) -> None:
    """Wait until every topic of `wanted` exists with that number of partitions; not ready meanwhile, with one line.

    Raises `Stopped` if the service is told to stop before.
    """
    service.health.starting("topics", "not looked at yet")
    admin = await start(service, settings, lambda: AIOKafkaAdminClient(**client_options(settings)))
    try:
        backoff = Backoff(longest_seconds=5.0)
        while not service.stopping.is_set():
            try:
                problem = await service.unless_stopped(_topic_problem(admin, settings, wanted))
            except (KafkaError, OSError, TimeoutError) as error:
                problem = f"Kafka at {settings.kafka_bootstrap}: {reason(error)}; retrying"
            if problem is None:
                service.health.ready("topics")
                return
            service.health.waiting("topics", problem)
            await service.pause(backoff.next_seconds(asyncio.get_running_loop().time()))
    finally:
        await close(admin)
    raise Stopped("told to stop before the topics were there")


async def watch_topics(
    service: Service, settings: KafkaSettings, wanted: dict[str, int], *, dead_letters: bool = False
) -> None:
    """Say while a topic is missing or has another number of partitions, until told to stop; to be run beside the work.

    To a client that works with it, a topic that was deleted is a Kafka that does not answer. `dead_letters`: look for
    that topic, too. A start does not wait for it, only a partition that has something to put there.
    """
    parts = {"topics": wanted} | ({"dead letters": {settings.topics.dead_letter: 1}} if dead_letters else {})
    while not service.stopping.is_set():
        admin = AIOKafkaAdminClient(**client_options(settings))
        try:
            async with asyncio.timeout(settings.kafka_deadline_seconds):
                await service.unless_stopped(admin.start())
            while not service.stopping.is_set():
                for part, topics in parts.items():
                    _show_topics(service, part, await _topic_problem(admin, settings, topics))
                await service.pause(_TOPICS_SECONDS)
        except Stopped:
            return
        except (KafkaError, OSError, TimeoutError):
            # Kafka is away: nothing is known of topics, and what works with them says so.
            await service.pause(_TOPICS_SECONDS)
        finally:
            await close(admin)


def _show_topics(service: Service, part: str, problem: str | None) -> None:
    if problem is None:
        service.health.ready(part)
    else:
        service.health.waiting(part, problem)


async def _topic_problem(admin: AIOKafkaAdminClient, settings: KafkaSettings, wanted: dict[str, int]) -> str | None:
    """Return what is wrong with topics, None if nothing; raise as the client does where Kafka does not say."""
    async with asyncio.timeout(settings.kafka_deadline_seconds):
        described = await admin.describe_topics(list(wanted))
    found = {topic["topic"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}
    if missing := [name for name in wanted if name not in found]:
        apply = command(f"topics apply --kafka-bootstrap {quote(settings.kafka_bootstrap)}")
        which = f"topic {missing[0]} does" if len(missing) == 1 else f"topics {', '.join(missing)} do"
        return f"{which} not exist: {apply}"
    for name, partitions in wanted.items():
        if found[name] != partitions:
            return (
                f"topic {name} has {found[name]} partitions, the setting partitions says {partitions}: they must agree"
            )
    return None


def reason(error: BaseException) -> str:
    """Return as one line why Kafka did not do it. aiokafka's own words for a broker that is away are Python's."""
    if isinstance(error, _AWAY) and (why := connections.why_not()):
        return why
    if isinstance(error, KafkaConnectionError):
        return "no connection: is it up, and is the address right?"
    if isinstance(error, TimeoutError):
        return "no answer"
    return " ".join(str(error).split()) or type(error).__name__
