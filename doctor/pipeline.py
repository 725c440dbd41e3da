# SPDX-License-Identifier: Apache-2.0
"""What `zonemeter doctor` looks at in the pipeline: Kafka, topics, lag, the ledger, dead letters. Changes nothing.

Each look opens its own client and has its own deadline, so that one that fails leaves the others alone. It reads in
no consumer group and moves nobody's position.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from audit.result import Audit
from common.amounts import counted, first_few
from common.errors import Refusal
from common.kafka import by_time, clients, topic_admin
from common.kafka.reading import command_reader, held
from common.kafka.topic_admin import TopicState, admin_client
from common.settings import KafkaSettings
from common.terminal import command
from doctor.checks import Check, Finding, UnclearError, fault, ok, unclear
from history.audit.command import AuditSettings, audit_range
from history.audit.text import coverage, unmeasured
from history.model.time_range import TimeRange, timestamp
from history.read.topic import partitions_of, read_topic
from schemas.topics import topic_specs

# What a topic must be for the promises to hold; the rest (retention, replicas) is its owner's to choose.
_BINDING = ("cleanup.policy", "message.timestamp.type", "message.timestamp.before.max.ms")
# So much at least: a record's time may be 50 minutes ahead (enricher/delivery/outgoing/unit.py).
_AT_LEAST = ("message.timestamp.after.max.ms",)


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group. `joins`: its members are seen by the broker; a sink may not be in use at all.

    `holds_seconds`: how long it may hold records before it commits them.
    """

    name: str
    topic: str
    joins: bool
    optional: bool
    holds_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind: in records, and on how many partitions for too long. `never`: it has no position."""

    records: int
    overdue: int
    never: bool


def pipeline_checks(
    settings: KafkaSettings, groups: Sequence[Group], span: TimeRange, lag_seconds: float
) -> list[Check]:
    """Return all checks of the pipeline. `span` is what the ledger and the dead letters are read for."""

    def check(name: str, look: Callable[[], Awaitable[list[Finding]]]) -> Check:
        return Check(name, lambda: asyncio.run(_within(settings.kafka_deadline_seconds, look)))

    return [
        check("kafka", lambda: check_kafka(settings)),
        check("topics", lambda: check_topics(settings)),
        *(check(f"lag {group.name}", partial(check_lag, settings, group, lag_seconds)) for group in groups),
        check("ledger", lambda: check_ledger(settings, span)),
        check("dead letters", lambda: check_dead_letters(settings, span)),
    ]


async def _within(seconds: float, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            return await look()
    except TimeoutError:
        raise UnclearError(f"no answer within {seconds:g} s") from None
    except (Refusal, KafkaError) as error:
        # A Kafka that is away is one fault, and the check of that name says so.
        away = isinstance(error, KafkaConnectionError) or isinstance(error.__cause__, KafkaConnectionError)
        raise UnclearError("Kafka does not answer" if away else clients.reason(error)) from error


async def check_kafka(settings: KafkaSettings) -> list[Finding]:
    """Check whether Kafka answers."""
    todo = "start it, or correct --kafka-bootstrap; docs/settings.md has the TLS and SASL settings"
    seconds = 0.9 * settings.kafka_deadline_seconds
    try:
        async with asyncio.timeout(seconds), admin_client(settings) as admin:
            brokers = (await admin.describe_cluster())["brokers"]
    except Refusal as refusal:
        return fault("kafka", str(refusal), todo)
    except TimeoutError:
        return fault("kafka", f"{settings.kafka_bootstrap}: takes connections, no answer within {seconds:g} s", todo)
    return ok("kafka", f"{settings.kafka_bootstrap}: {counted(len(brokers), 'broker')}")


async def check_topics(settings: KafkaSettings) -> list[Finding]:
    """Tell of each topic whether it is there and as it must be, and whether all its replicas are in sync."""
    specs = topic_specs(settings.topics, partitions=settings.partitions)
    async with admin_client(settings) as admin:
        states = await topic_admin.describe(admin, specs)
        described = {topic["topic"]: topic for topic in await admin.describe_topics([spec.name for spec in specs])}
    return [finding for state in states for finding in topic_finding(state, described[state.spec.name]["partitions"])]


def topic_finding(state: TopicState, partitions: Sequence[dict[str, Any]]) -> list[Finding]:
    """Judge one topic; `partitions` as Kafka's Metadata answer describes them."""
    name = f"topic {state.spec.name}"
    apply = command("topics apply")
    if state.partitions is None:
        return fault(name, "does not exist", apply)
    if state.partitions != state.spec.partitions:
        found = f"{state.partitions} partitions, the setting says {state.spec.partitions}"
        return fault(name, found, "the setting partitions must be as the topics are; growth is a new --topic-prefix")
    wrong = [
        f"{key} is {state.config.get(key)!r}, not {wanted!r}"
        for key, wanted in state.to_set.items()
        if key in _BINDING or (key in _AT_LEAST and int(state.config.get(key) or 0) < int(wanted))
    ]
    if wrong:
        return fault(name, "; ".join(wrong), apply)
    leaderless = sum(1 for each in partitions if each["leader"] < 0)
    if leaderless:
        return fault(name, f"{leaderless} of {state.partitions} partitions have no leader", "are all brokers up?")
    behind = sum(1 for each in partitions if len(each["isr"]) < len(each["replicas"]))
    if behind:
        return unclear(
            name, f"{behind} of {state.partitions} partitions have replicas out of sync", "watch the brokers"
        )
    replicas = min((len(each["replicas"]) for each in partitions), default=0)
    least = state.config.get("min.insync.replicas", "?")
    return ok(
        name, f"{counted(state.partitions, 'partition')}, {counted(replicas, 'replica')}, min.insync.replicas {least}"
    )


async def check_lag(settings: KafkaSettings, group: Group, lag_seconds: float) -> list[Finding]:
    """Tell how far a group is behind, and whether it has members."""
    lag_seconds += group.holds_seconds
    async with admin_client(settings) as admin:
        members = await _members(admin, group.name) if group.joins else None
        committed = await admin.list_consumer_group_offsets(group.name)
    ours = {place.partition: at.offset for place, at in committed.items() if place.topic == group.topic}
    lag = await _lag(settings, group.topic, ours, int((time.time() - lag_seconds) * 1000))
    return lag_finding(group, lag, members, lag_seconds)


def lag_finding(group: Group, lag: Lag, members: int | None, lag_seconds: float) -> list[Finding]:
    """Judge a group; `members` None where they cannot be seen."""
    name = f"lag {group.name}"
    if lag.never and group.optional:
        return unclear(name, "has never committed a position", "fine if this sink is not in use")
    if members == 0 and not (lag.never and group.optional):
        return fault(name, f"no member; {counted(lag.records, 'record')} behind", "is the service running?")
    if lag.never:
        return fault(name, "has never committed a position", "is the service running? its /readyz says why not")
    joined = "" if members is None else f", {counted(members, 'member')}"
    if lag.overdue:
        behind = f"{lag.records:,} records behind, on {lag.overdue} partitions for more than {lag_seconds:g} s{joined}"
        return fault(name, behind, "its /readyz and log say why; more CPU, or another replica")
    return ok(name, f"{counted(lag.records, 'record')} behind{joined}")


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    (response,) = await admin.describe_consumer_groups([group])
    # DescribeGroupsResponse: (error_code, group, state, protocol_type, protocol, members, ...)
    return len(response.groups[0][5])


async def _lag(settings: KafkaSettings, topic: str, committed: dict[int, int], overdue_ms: int) -> Lag:
    places = [TopicPartition(topic, number) for number in await partitions_of(settings, topic)]
    async with command_reader(settings, places) as consumer:
        kept = await held(consumer, places, settings.kafka_deadline_seconds)
        # The first record that is young enough to be under way.
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            young = await by_time.offsets_for_times(consumer, dict.fromkeys(places, overdue_ms))
    records = overdue = 0
    for place in places:
        at = max(committed.get(place.partition, -1), kept[place].start)
        records += max(kept[place].stop - at, 0)
        found = young[place]
        overdue += at < (kept[place].stop if found is None else found.offset)
    return Lag(records, overdue, never=not any(offset >= 0 for offset in committed.values()))


async def check_ledger(settings: KafkaSettings, span: TimeRange) -> list[Finding]:
    """Reconcile the ledger of `span`, as `zonemeter audit` does."""
    shared = settings.model_dump(include=set(KafkaSettings.model_fields))
    audit_settings = AuditSettings.model_construct(**shared)
    return ledger_findings(await audit_range(audit_settings, span, span.to_ms))


def ledger_findings(audit: Audit) -> list[Finding]:
    """Judge an audit: whether the books close, whether time or whole nodes went unmeasured."""
    if not audit.seen.bytes:
        under_way = audit.in_flight + audit.late_windows
        found = f"no traffic was metered, {under_way} windows are in flight or late"
        return (unclear if under_way else fault)("ledger", found, "is a collector running? its /readyz says")
    line = f"{audit.ratio:.6f} over {counted(audit.windows, 'window')} of {counted(len(audit.nodes_metered), 'node')}"
    if audit.in_flight:
        line += f", {audit.in_flight} in flight"
    if audit.late_windows:
        line += f", {audit.late_windows} late"
    line += f"; coverage {coverage(audit)}"
    todo = command("audit names windows and hops")
    findings = ok("ledger", line) if audit.closes else fault("ledger", f"{line}: does not close", todo)
    if audit.gaps:
        nodes = sorted({gap.node for gap in audit.gaps})
        time = unmeasured(audit, f"{audit.unmeasured_ms / 1000:.0f} s")
        findings += unclear("unmeasured time", f"{time} on {first_few(nodes)}", todo)
    if audit.is_forged:
        names = sorted({*audit.interleaved, *(node for node, _ in audit.foreign)})
        findings += fault("who writes", f"windows that cannot be {first_few(names)}'s alone", todo)
    without = sorted((audit.nodes_in_cluster or set()) - audit.nodes_metered)
    if without:
        findings += unclear(
            "nodes without windows", first_few(without), "does a collector run there? doctor on that node"
        )
    return findings


async def check_dead_letters(settings: KafkaSettings, span: TimeRange) -> list[Finding]:
    """Count what was refused in `span`."""
    count = 0
    async for batch in read_topic(settings, settings.topics.dead_letter, span.from_ms):
        count += len(batch)
    if count:
        return fault("dead letters", f"{count:,} since {timestamp(span.from_ms)} UTC", command("dead-letters list"))
    return ok("dead letters", "none")
