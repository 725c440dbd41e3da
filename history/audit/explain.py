# SPDX-License-Identifier: Apache-2.0
"""What may have become of the bytes that an audit cannot account for, hop by hop and node by node.

The audit says what is missing and where; this says why, as far as Kafka still tells: a record that was refused is
among the dead letters, one that retention deleted is older than the topic's first, one not taken yet is lag.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from audit.result import Audit, Shortfall
from common.settings import KafkaSettings
from common.terminal import command
from history.model.time_range import TimeRange, timestamp
from history.read.topic import NoTopic, Reading, read_topic
from schemas.dead_letter import decode_dead_letter
from schemas.errors import DecodeError
from schemas.topics import TopicNames

_NAMED = 5


class RefusedRecord(NamedTuple):
    """A dead letter, as far as it explains: its number, who refused it, from which topic, of which node, and why."""

    number: int
    by: str
    topic: str
    node: str | None
    reason: str


async def explain(settings: KafkaSettings, span: TimeRange, audit: Audit) -> list[str]:
    """Return a line for each hop and node that something is missing of; reads no topic where nothing is."""
    if not audit.shortfalls:
        return []
    letters, lines = list[RefusedRecord](), list[str]()
    try:
        letters = await _letters(settings, span)
    except NoTopic as missing:
        lines.append(f"dead letters: {missing}; whether a record was refused is not known")
    kept_ms = {topic: await _kept_since(settings, topic) for topic in _topics(settings.topics, audit.shortfalls)}
    groups: dict[tuple[str, str], list[Shortfall]] = defaultdict(list)
    for short in audit.shortfalls:
        groups[short.hop, short.window.split("/")[1]].append(short)
    return lines + [
        f"{hop}, {node}: {'; '.join(why(settings.topics, hop, node, shorts, letters, kept_ms, span))}"
        for (hop, node), shorts in sorted(groups.items())
    ]


def why(
    topics: TopicNames,
    hop: str,
    node: str,
    shorts: Sequence[Shortfall],
    letters: Iterable[RefusedRecord],
    kept_ms: dict[str, int],
    span: TimeRange,
) -> list[str]:
    """Return what may have become of what a hop lacks of a node; `kept_ms`: since when a topic has its records."""
    size = sum(abs(short.bytes) for short in shorts)
    if all(short.bytes < 0 for short in shorts):
        return [f"{size:,} bytes too many: {_too_many(hop)}"]
    if all(short.late for short in shorts):
        line = f"nor are they seen to wait for it in Kafka; {command('doctor --pipeline-only')} has the lag"
        return [f"{size:,} bytes are not taken, nothing later of this node is, {line}"]
    said = []
    topic = _source(topics, hop)
    # A flow log with a group of its own is a hop of its own, but refuses under its service's name.
    by = hop.partition(" ")[0]
    own = [letter for letter in letters if (letter.by, letter.topic, letter.node) == (by, topic, node)]
    if own:
        reasons = ", ".join(sorted({letter.reason for letter in own}))
        numbers = ", ".join(str(letter.number) for letter in own[:_NAMED])
        said.append(
            f"it refused {len(own)} records of this node in the range ({reasons}), dead letters {numbers}, which may "
            f"be these: {command('dead-letters list')} --show {own[0].number}"
        )
    if topic in kept_ms and kept_ms[topic] > span.from_ms:
        said.append(f"{topic} has nothing from before {timestamp(kept_ms[topic])} UTC: retention may have deleted it")
    if any(not short.late for short in shorts) and not said:
        said.append("why is not known: no dead letter tells of it, and the topic goes back that far; try --deep")
    if any(short.why.startswith("its own entry") for short in shorts):
        said.append("an entry that does not add up is a fault in zonemeter (please open an issue) or a stranger's")
    return said


def _too_many(hop: str) -> str:
    if hop == "collector":
        return "enriched, and the ledger has no entry of a collector for it: that is gone, or there never was one"
    return "why is not known: its positions may have gone back without its marks, or two have state of their own"


def _source(topics: TopicNames, hop: str) -> str:
    return topics.raw if hop == "enricher" else topics.enriched if hop != "collector" else topics.ledger


def _topics(topics: TopicNames, shorts: Iterable[Shortfall]) -> set[str]:
    return {_source(topics, short.hop) for short in shorts if not short.late and short.bytes > 0}


async def _letters(settings: KafkaSettings, span: TimeRange) -> list[RefusedRecord]:
    found = []
    async for batch in read_topic(settings, settings.topics.dead_letter, span.from_ms):
        for record in batch:
            try:
                letter = decode_dead_letter(record.value)
            except DecodeError:
                continue
            found.append(RefusedRecord(record.offset, letter.refused_by, letter.topic, letter.key, letter.reason))
    return found


async def _kept_since(settings: KafkaSettings, topic: str) -> int:
    """Return the time of the first record of the partition that lost the most; 0 if none has lost any."""
    reading, since = Reading(), 0
    seen: set[int] = set()
    async for batch in read_topic(settings, topic, None, reading=reading):
        partition = batch[0].partition
        if partition in reading.cut_off and partition not in seen:
            since = max(since, batch[0].timestamp)
        seen.add(partition)
        if not set(reading.cut_off) - seen:
            break
    return since
