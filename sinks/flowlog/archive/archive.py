# SPDX-License-Identifier: Apache-2.0
"""The flow log as files: data files, then the manifest that lists them; and clearing up after a crash.

    flows/date=2026-11-23/hour=02/flows-p3-000000000017-5c9e01.parquet     by window start (UTC)
    _manifests/p=3/000000000017.json
    _manifests/p=3/000000000017-5c9e01.intent                             while its files are being written

Below flows/ there is nothing but data: some readers take a directory only if all in it is of one kind.
The number makes two writers of one partition collide: each continues the newest manifest, only one of them can
create the next, and the other finds out before its rows count. The random part keeps their data files apart. All
methods block: call them in a thread.
"""

import contextlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from common.errors import Refusal
from schemas.codec import UNREADABLE
from schemas.errors import DecodeError
from sinks.flowlog.archive.manifest import DataFile, Intent, Manifest, encode, read_intent, read_manifest
from sinks.flowlog.stores.store import TEMPORARY, Parts, Store
from sinks.sink import Overtaken

FLOWS, MANIFESTS = "flows", "_manifests"
# Manifests that a writer who is still alive may have written since the directory was listed.
MAX_AHEAD = 1000
MANIFEST, INTENT = re.compile(r"\d{12}\.json"), re.compile(r"\d{12}-[0-9a-f]{6}\.intent")


class Rows(Protocol):
    """The rows of one file that is to be."""

    rows: int

    @property
    def size_bytes(self) -> int:
        """About what they take in memory."""

    def encode(self) -> Parts:
        """Return the file, in parts."""


@dataclass(frozen=True, slots=True)
class ArchiveCut:
    """What goes into one manifest; `rows` by the hour they belong to (Unix time in milliseconds)."""

    manifest: Manifest
    rows: Mapping[int, Rows]


class Archive:
    """The flow log of one topic in one store, of flows of one attribution. `suffix` is that of data files."""

    def __init__(self, store: Store, topic: str, suffix: str, attribution_version: int = 0) -> None:
        self._store = store
        self._topic = topic
        self._suffix = suffix
        self._attribution = attribution_version
        self._writer = secrets.token_hex(3)

    def check(self) -> None:
        """Raise `Refusal` if the directory is another topic's, with which this one may share no partition for long."""
        for name in sorted(self._store.names(MANIFESTS)):
            manifests = [each for each in self._store.names(f"{MANIFESTS}/{name}") if MANIFEST.fullmatch(each)]
            if manifests and name.startswith("p=") and name[2:].isdecimal():
                self._read(int(name[2:]), max(manifests))
                return

    def recover(self, partition: int) -> Manifest | None:
        """Delete what no manifest lists and return the newest manifest; to be called by the partition's new owner."""
        while True:
            manifests, intents = self._listing(partition)
            newest = self._read(partition, manifests[-1]) if manifests else None
            # A listing may lag behind, in some object stores; what is asked for by its name does not.
            while self._store.exists(_manifest_path(partition, number := newest.sequence + 1 if newest else 1)):
                newest = self._read(partition, _manifest_name(number))
            if not intents:
                return newest
            ahead = _number(intents[-1]) - (newest.sequence if newest else 0)
            if ahead > MAX_AHEAD:
                raise _damaged(f"{_directory(partition)}/{intents[-1]}", ValueError(f"it is {ahead:,} manifests ahead"))
            if ahead <= 0:
                for name in intents:
                    self._withdraw(partition, name)
                return newest
            # Its writer may still be alive: its number must be taken before its files are deleted.
            self._claim(partition, newest)

    def write(self, cut: ArchiveCut) -> Manifest:
        """Write data files and the manifest that lists them, and return it.

        Raises `OSError` if it is not known to count, so that the same cut can be tried again, and `Overtaken`. Until
        then no data file is deleted: an earlier try may have created the manifest, and only its answer was lost. The
        next try writes the same files, and if there is none, the partition's next owner deletes what does not count.
        """
        manifest = self._own(cut.manifest)
        paths = {hour_ms: self._data_path(manifest, hour_ms) for hour_ms in cut.rows}
        intent = self._intent_path(manifest)
        self._write_intent(intent, Intent(manifest.sequence, list(paths.values())))
        files = [
            DataFile(path, cut.rows[hour_ms].rows, self._store.put(path, cut.rows[hour_ms].encode()))
            for hour_ms, path in paths.items()
        ]
        written = msgspec.structs.replace(manifest, files=files)
        ours = self._store.create(_manifest_path(written.partition, written.sequence), [encode(written)])
        # An earlier try may have created it and failed only then.
        if not ours and self._read(written.partition, _manifest_name(written.sequence)).writer != self._writer:
            self._delete([*paths.values(), intent])
            raise Overtaken(f"partition {written.partition}: manifest {written.sequence} is another process's")
        with contextlib.suppress(OSError):
            # It is not needed any more, and the partition's next owner deletes it.
            self._store.delete(intent)
        return written

    def _write_intent(self, path: str, intent: Intent) -> None:
        self._store.put(path, [encode(intent)])

    def _delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._store.delete(path)

    def _listing(self, partition: int) -> tuple[list[str], list[str]]:
        names = sorted(self._store.names(_directory(partition)))
        self._delete(f"{_directory(partition)}/{name}" for name in names if name.endswith(TEMPORARY))
        return [name for name in names if MANIFEST.fullmatch(name)], [name for name in names if INTENT.fullmatch(name)]

    def _read(self, partition: int, name: str) -> Manifest:
        path = f"{_directory(partition)}/{name}"
        try:
            manifest = read_manifest(self._store.read(path), partition, _number(name))
        except (*UNREADABLE, ValueError) as error:
            raise _damaged(path, error) from error
        if manifest.topic != self._topic:
            raise Refusal(f"output: {path} is of topic {manifest.topic}, not {self._topic}; use another directory")
        if manifest.attribution_version != self._attribution:
            raise Refusal(
                f"output: {path} is of attribution_version {manifest.attribution_version}, not {self._attribution}; "
                "use another directory"
            )
        return manifest

    def _own(self, manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, writer=self._writer, attribution_version=self._attribution)

    def _withdraw(self, partition: int, name: str) -> None:
        path = f"{_directory(partition)}/{name}"
        try:
            intent = read_intent(self._store.read(path), partition, name)
        except FileNotFoundError:
            return
        except (*UNREADABLE, ValueError) as error:
            raise _damaged(path, error) from error
        manifest = self._read(partition, _manifest_name(intent.sequence))
        listed = {file.path for file in manifest.files}
        for data in intent.paths:
            if data not in listed:
                self._store.delete(data)
        self._store.delete(path)

    def _claim(self, partition: int, newest: Manifest | None) -> None:
        if newest is None:
            newest = Manifest(
                topic=self._topic, partition=partition, sequence=0, writer="", first_offset=None, next_offset=None
            )
        claim = msgspec.structs.replace(newest, sequence=newest.sequence + 1, first_offset=newest.next_offset, files=[])
        self._store.create(_manifest_path(partition, claim.sequence), [encode(self._own(claim))])

    def _data_path(self, manifest: Manifest, hour_ms: int) -> str:
        hour = datetime.fromtimestamp(hour_ms / 1000, UTC)
        name = f"flows-p{manifest.partition}-{manifest.sequence:012}-{self._writer}{self._suffix}"
        return f"{FLOWS}/date={hour:%Y-%m-%d}/hour={hour:%H}/{name}"

    def _intent_path(self, manifest: Manifest) -> str:
        return f"{_directory(manifest.partition)}/{manifest.sequence:012}-{self._writer}.intent"


def _damaged(path: str, error: Exception) -> Refusal:
    if isinstance(error, DecodeError):
        return Refusal(f"output: {path}: {error}; run the version of zonemeter that wrote it, or use another directory")
    return Refusal(f"output: {path} is damaged: {error}; restore it or use another directory")


def _directory(partition: int) -> str:
    return f"{MANIFESTS}/p={partition}"


def _manifest_path(partition: int, sequence: int) -> str:
    return f"{_directory(partition)}/{_manifest_name(sequence)}"


def _manifest_name(sequence: int) -> str:
    return f"{sequence:012}.json"


def _number(name: str) -> int:
    return int(name[:12])
