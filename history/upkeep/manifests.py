# SPDX-License-Identifier: Apache-2.0
"""Deletes the oldest manifests of an archive: those of which every file was replaced or has expired.

A flow log writes a manifest for each cut of each partition, more than a million a year, and each reader of the archive
lists them all. What the old ones said stands in the compactions. The newest stays, and with it the flow log's position.
"""

from collections.abc import Callable, Iterator
from functools import cache

from history.read.archive.hours import hour_of
from history.read.archive.opened import DIRECTORY, FlowArchive, manifest_path
from sinks.flowlog.archive.archive import FLOWS, INTENT
from sinks.flowlog.archive.manifest import Manifest


def superseded(archive: FlowArchive, since_ms: int, before_ms: int, compact: Callable[[str], None]) -> Iterator[str]:
    """Yield the paths of manifests that nobody needs, of flows from before a time; each partition's from the oldest on.

    They may be deleted in this order: wherever that ends, what is left is a chain without holes. `compact` is given the
    hours, such as `date=1970-01-01/hour=00`, of files that manifests of since `since_ms` list and that nobody replaced:
    a clock that is wrong by years puts flows where nobody looks. Raises `Refusal`.
    """

    def gone(path: str) -> bool:
        directory, _, _ = path.rpartition("/")
        chain = chain_of(directory.removeprefix(f"{FLOWS}/"))
        if path in chain.replaced:
            return True
        # Flows that came after their hour had expired are there. An hour that somebody deleted whole has nothing left.
        return (chain.expired or not archive.names(directory)) and not archive.has(path)

    chain_of = cache(archive.chain)
    for partition in archive.partitions:
        for number in _numbers(archive, partition):
            manifest = archive.manifest(partition, number)
            newest_ms = _newest_ms(manifest)
            there = [file.path for file in manifest.files if not gone(file.path)] if newest_ms < before_ms else []
            if there and newest_ms >= since_ms:
                for hour in sorted(set(map(hour_of, there))):
                    compact(hour)
                chain_of.cache_clear()
                there = [path for path in there if not gone(path)]
            if there or newest_ms >= before_ms:
                break
            yield manifest_path(partition, number)


def _numbers(archive: FlowArchive, partition: int) -> list[int]:
    """Return the numbers that may go: not the newest, and none that a flow log's next start will look at."""
    names = archive.names(f"{DIRECTORY}/p={partition}")
    needed = [archive.numbers(partition)[-1], *(int(name[:12]) for name in names if INTENT.fullmatch(name))]
    return [number for number in archive.numbers(partition) if number < min(needed)]


def _newest_ms(manifest: Manifest) -> int:
    """Return when the newest of its flows was taken; 0 if it knows of none yet."""
    return max((marked.mark.taken_ms or marked.mark.end_ms for marked in manifest.marks), default=0)
