# SPDX-License-Identifier: Apache-2.0
"""`zonemeter dead-letters list`: what could not be decoded in a time range, and any one of them whole."""

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from msgspec.structs import asdict, replace
from pydantic import Field

from common import clock, terminal
from common.entry_point import entry_point
from common.errors import Refusal
from common.kafka.reading import command_reader, held, stretch
from common.settings import KafkaSettings
from history.model.time_range import Since, TimeRange, timestamp
from history.range_settings import SpanSettings
from history.read.topic import read_topic
from schemas.dead_letter import DeadLetter, decode_dead_letter
from schemas.errors import DecodeError

PROG = "zonemeter dead-letters list"
DEFAULT_SINCE = "24h"


class DeadLettersSettings(SpanSettings):
    """List the records that could not be decoded, with the reason, or print one of them as it was."""

    since: Since | None = Field(
        None, description="how far back, such as 1h, or since when, such as yesterday (default: 24h)"
    )
    output: Literal["table", "json"] = Field("table", description="how to print the list; json: one object a line")
    node: str | None = Field(None, min_length=1, description="only records of this node: those whose key it is")
    reason: str | None = Field(None, min_length=1, description="only those refused for this reason, such as not_json")
    refused_by: str | None = Field(
        None, min_length=1, description="only those refused by this service, such as enricher"
    )
    show: int | None = Field(None, ge=0, description="print the value of the letter with this number, byte by byte")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and its number: its offset in the dead-letter topic, which has one partition."""

    number: int
    refused_ms: int
    letter: DeadLetter


@entry_point("dead-letters list", DeadLettersSettings)
def main(settings: DeadLettersSettings) -> int:
    """Run the command; exit status 0 also where there are none."""
    if settings.show is not None:
        terminal.data().write(value_of(asyncio.run(read_one(settings, settings.show))))
        return 0
    asyncio.run(_list(settings, settings.span(PROG, clock.now_ms(), DEFAULT_SINCE)))
    return 0


async def _list(settings: DeadLettersSettings, span: TimeRange) -> None:
    """Print the letters as they are read: there may be more than fit into memory."""
    reasons: Counter[str] = Counter()
    async for each in read_range(settings, span):
        reasons[each.letter.reason] += 1
        if settings.output == "json":
            terminal.write_json(_as_dict(each), indent=False)
        else:
            _print(each)
    if settings.output == "json":
        return
    if not reasons:
        terminal.say(f"no dead letters{_filters(settings)}   {span}")
        return
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    many = f"{reasons.total():,} dead letter{'s' if reasons.total() != 1 else ''}"
    terminal.say(f"{many}: {by_reason}; --show NUMBER prints the value of one")


def _filters(settings: DeadLettersSettings) -> str:
    """Return what was asked for: a filter that finds nothing must not read as if there were none at all."""
    asked = (("of node", settings.node), ("with reason", settings.reason), ("refused by", settings.refused_by))
    return "".join(f" {words} {value}" for words, value in asked if value is not None)


async def read_range(settings: DeadLettersSettings, span: TimeRange) -> AsyncIterator[Letter]:
    """Yield the wanted letters that were refused in `span`, without their values; raise `Refusal` if that cannot be.

    A record in the topic that is not a dead letter becomes one, too: somebody else writes there.
    """
    topic = settings.topics.dead_letter
    async for batch in read_topic(settings, topic, span.from_ms):
        for record in batch:
            if record.timestamp >= span.to_ms:
                continue
            try:
                letter = replace(decode_dead_letter(record.value), value=None)
            except DecodeError as error:
                letter = _stranger(topic, record, error)
            if _is_wanted(settings, letter):
                yield Letter(record.offset, record.timestamp, letter)


def _stranger(topic: str, record: ConsumerRecord[bytes, bytes], error: DecodeError) -> DeadLetter:
    return DeadLetter(
        reason=error.reason,
        detail=f"is in {topic} and is not a dead letter: {error.detail[:500]}",
        topic=topic,
        partition=0,
        offset=record.offset,
        timestamp_ms=max(record.timestamp, 0),
        refused_by="dead-letters list",
        value_size=len(record.value or b""),
    )


def _is_wanted(settings: DeadLettersSettings, letter: DeadLetter) -> bool:
    wanted = ((settings.node, letter.key), (settings.reason, letter.reason), (settings.refused_by, letter.refused_by))
    return all(want in (None, found) for want, found in wanted)


async def read_one(settings: KafkaSettings, number: int) -> DeadLetter:
    """Return one letter; raise `Refusal` if there is none with this number, or Kafka cannot be read."""
    place = TopicPartition(settings.topics.dead_letter, 0)
    async with command_reader(settings, [place]) as consumer:
        there = (await held(consumer, [place], settings.kafka_deadline_seconds))[place]
        wanted = {place: range(number, number + (number in there))}
        found = [each async for batch in stretch(consumer, wanted, settings.kafka_deadline_seconds) for each in batch]
    if not found:
        kept = f"{there.start} to {there.stop - 1} are kept" if there else "there is none"
        raise Refusal(f"show = {number}: no such dead letter; {kept}")
    return _decode(settings, number, found[0].value)


def value_of(letter: DeadLetter) -> bytes:
    """Return the refused record's value, as far as it was kept; raise `Refusal` if it had none."""
    if letter.value is None:
        raise Refusal("that record had no value")
    try:
        return base64.b64decode(letter.value, validate=True)
    except binascii.Error as error:
        raise Refusal(f"its value is not base64: {error}") from error


def _decode(settings: KafkaSettings, offset: int, value: bytes | None) -> DeadLetter:
    try:
        return decode_dead_letter(value)
    except DecodeError as error:
        raise Refusal(f"{settings.topics.dead_letter} offset {offset}: not a dead letter: {error}") from error


def _print(each: Letter) -> None:
    letter = each.letter
    first = "" if letter.first_offset is None else f"{letter.first_offset}-"
    place = f"{letter.topic} {letter.partition}@{first}{letter.offset}  {letter.value_size:,} bytes"
    whose = f"  {letter.key}" if letter.key else ""
    words = f"{timestamp(each.refused_ms)}  {letter.refused_by}  {letter.reason}{whose}  {place}"
    terminal.say(f"{each.number:>6}  {words}", f"{'':8}{letter.detail}")


def _as_dict(each: Letter) -> dict[str, object]:
    fields = asdict(each.letter)
    del fields["value"], fields["schema_version"]
    return {"number": each.number, "refused_ms": each.refused_ms, **fields}
