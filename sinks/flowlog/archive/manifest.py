# SPDX-License-Identifier: Apache-2.0
"""A manifest: which files hold which flows of one partition, and where the next one begins. Pure.

Manifests of a partition are a chain, numbered from 1 without holes. A file counts if a manifest lists it. Each
holds the whole state to go on from: the position, the last flow taken of each life of a node, and its ledger records.
"""

import re
from typing import Annotated

import msgspec

from schemas.codec import Count, check_version, unsupported
from schemas.flow import MAX_ATTRIBUTION_VERSION
from schemas.ids import Origin
from schemas.ledger import SCHEMA_VERSION as LEDGER_VERSION
from schemas.ledger import LedgerRecord
from sinks.intake import FlowMark

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
    mark: FlowMark


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest. Offsets are the enriched topic's: rows come from [first_offset, next_offset).

    While dead letters wait, also from beyond: the marks skip those. `writer` tells processes apart.
    `next_offset` is None only in a chain that began with the clearing up after a crash. `attribution_version`: of all
    rows of the chain.
    """

    schema_version: int = SCHEMA_VERSION
    topic: str
    attribution_version: Annotated[int, msgspec.Meta(ge=0, le=MAX_ATTRIBUTION_VERSION)] = 0
    partition: Count
    sequence: Count
    writer: str
    first_offset: Count | None
    next_offset: Count | None
    files: list[DataFile] = []
    marks: list[Marked] = []
    ledger: list[LedgerRecord] = []

    def known_marks(self) -> dict[Origin, FlowMark]:
        """Return the marks by life of a node."""
        return {Origin(each.cluster, each.node, each.boot_id): each.mark for each in self.marks}


class Intent(msgspec.Struct, frozen=True):
    """What a writer is about to write for the manifest of that number: to be deleted if no manifest lists it."""

    sequence: Count
    paths: list[str]


_encoder = msgspec.json.Encoder()
_manifest_decoder = msgspec.json.Decoder(Manifest)
_intent_decoder = msgspec.json.Decoder(Intent)


def encode(record: msgspec.Struct) -> bytes:
    """Encode a manifest, a compaction or an intent."""
    return _encoder.encode(record)


def decode_manifest(value: bytes) -> Manifest:
    """Decode a manifest; raises `UNREADABLE`."""
    return _manifest_decoder.decode(value)


def read_manifest(value: bytes, partition: int, sequence: int) -> Manifest:
    """Decode the manifest of that number; raise `UNREADABLE` or `ValueError` if it is not that one.

    One that stands in another's place, copied or renamed by hand, has the position of another partition. One of a newer
    version is a `DecodeError`: what counts of the files that it lists is that version's to know.
    """
    try:
        found = decode_manifest(value)
    except msgspec.ValidationError:
        check_version(value, SCHEMA_VERSION)
        raise
    if found.schema_version != SCHEMA_VERSION:
        raise unsupported(found.schema_version, SCHEMA_VERSION)
    if (found.partition, found.sequence) != (partition, sequence):
        raise ValueError(f"it is manifest {found.sequence} of partition {found.partition}")
    for entry in found.ledger:
        if (entry.hop, entry.partition) != ("flowlog", partition):
            raise ValueError(f"its ledger has an entry of {entry.hop}, partition {entry.partition}")
        if entry.schema_version != LEDGER_VERSION:
            raise unsupported(entry.schema_version, LEDGER_VERSION)
    return found


def decode_intent(value: bytes) -> Intent:
    """Decode an intent; raises `UNREADABLE`."""
    return _intent_decoder.decode(value)


def read_intent(value: bytes, partition: int, name: str) -> Intent:
    """Decode the intent of that name; raise `UNREADABLE` or `ValueError` if it names files that its writer never has.

    What it names may be deleted.
    """
    found = decode_intent(value)
    stem = name.removesuffix(".intent")
    if found.sequence != int(stem.partition("-")[0]):
        raise ValueError(f"it is the intent of manifest {found.sequence}")
    # Earlier versions had the dates beside the manifests.
    own = re.compile(rf"(?:flows/)?date=\d{{4}}-\d\d-\d\d/hour=\d\d/flows-p{partition}-{stem}\.[a-z.]+", re.ASCII)
    for path in found.paths:
        if not own.fullmatch(path):
            raise ValueError(f"its writer has no file {path[:200]!r}")
    return found
