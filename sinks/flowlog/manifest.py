# SPDX-License-Identifier: Apache-2.0
"""A manifest: which files hold which flows of one partition, and where the next one begins. Pure.

Manifests of a partition are a chain, numbered from 1 without holes. A file counts if a manifest lists it. Each
holds the whole state to go on from: the position, the last flow taken of each life of a node, and its ledger records.
"""

import msgspec

from schemas.codec import Count
from schemas.ids import Origin
from schemas.ledger import LedgerRecord
from sinks.intake import Mark

SCHEMA_VERSION = 1


class DataFile(msgspec.Struct, frozen=True):
    """One file; `path` is relative to the output."""

    path: str
    rows: Count
    size_bytes: Count


class Marked(msgspec.Struct, frozen=True):
    """The last flow taken of one life of a node."""

    cluster: str
    node: str
    boot_id: str
    mark: Mark


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest. Offsets are the enriched topic's: rows come from [first_offset, next_offset).

    `writer` tells processes apart.
    `next_offset` is None only in a chain that began with the clearing up after a crash.
    """

    schema_version: int = SCHEMA_VERSION
    topic: str
    partition: Count
    sequence: Count
    writer: str
    first_offset: Count | None
    next_offset: Count | None
    files: list[DataFile] = []
    marks: list[Marked] = []
    ledger: list[LedgerRecord] = []

    def known_marks(self) -> dict[Origin, Mark]:
        """Return the marks by life of a node."""
        return {Origin(each.cluster, each.node, each.boot_id): each.mark for each in self.marks}


class Intent(msgspec.Struct, frozen=True):
    """What a writer is about to write for the manifest of that number: to be deleted if no manifest lists it."""

    sequence: Count
    paths: list[str]


_encoder = msgspec.json.Encoder()
_manifest_decoder = msgspec.json.Decoder(Manifest)
_intent_decoder = msgspec.json.Decoder(Intent)


def encode(record: Manifest | Intent) -> bytes:
    """Encode a manifest or an intent."""
    return _encoder.encode(record)


def decode_manifest(value: bytes) -> Manifest:
    """Decode a manifest; raises `UNREADABLE`."""
    return _manifest_decoder.decode(value)


def decode_intent(value: bytes) -> Intent:
    """Decode an intent; raises `UNREADABLE`."""
    return _intent_decoder.decode(value)
