# SPDX-License-Identifier: Apache-2.0
"""Decodes a raw record and checks that it may stand where it stands: who reads one refuses the same."""

from aiokafka.structs import ConsumerRecord

from common.kafka.publish import Record
from schemas.dead_letter import dead_letter
from schemas.errors import DecodeError
from schemas.raw import RawChunk, decode_chunk


def decode_record(record: ConsumerRecord[bytes, bytes], cluster: str) -> RawChunk:
    """Decode a raw record; raise `DecodeError` if it is wrong, or not of its key's node or this cluster."""
    chunk = decode_chunk(record.value)
    if record.key != chunk.node.encode():
        raise DecodeError("inconsistent", f"the key is {(record.key or b'')[:100]!r}, the node {chunk.node!r}")
    if chunk.cluster != cluster:
        raise DecodeError("inconsistent", f"the cluster is {chunk.cluster!r}, this enricher's is {cluster!r}")
    return chunk


def letter_of(record: ConsumerRecord[bytes, bytes], error: DecodeError, topic: str, now_ms: int) -> Record:
    """Return what is kept of a raw record that was refused, in the topic of dead letters: all of it, and why."""
    place = (record.topic, record.partition, record.offset)
    value = dead_letter(error.reason, error.detail, "enricher", *place, record.timestamp, record.key, record.value)
    return Record(topic, 0, "/".join(map(str, place)).encode(), value, now_ms)
