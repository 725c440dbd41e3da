# SPDX-License-Identifier: Apache-2.0
"""Decodes a raw record and checks that it may stand where it stands: who reads one refuses the same."""

from aiokafka.structs import ConsumerRecord

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
