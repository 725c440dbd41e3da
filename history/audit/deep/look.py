# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit --deep`: reads raw and enriched topic and the flow log's files, and compares with the ledger.

The ledger says what each hop did; this looks whether it is there. One partition at a time, so that no more is held
than a partition's chunks of the range. The ledger is read first: what it speaks of was written before it, so whatever
is missing then is missing, on a live system too.
"""

from common.settings import KafkaSettings
from history.audit.deep.archive import read_archive
from history.audit.deep.compare import compare
from history.audit.deep.facts import Deep, Facts, Wanted
from history.audit.deep.rollups import check_rollups
from history.audit.deep.topics import read_letters, read_partition
from history.read.archive.opened import FlowArchive
from history.read.topic import partitions_of


async def look(settings: KafkaSettings, wanted: Wanted, location: str | None) -> Deep:
    """Read everything of the range back and compare it; raise `Refusal` if it cannot be read at all."""
    if location is not None:
        FlowArchive(location)  # refused before all of Kafka is read
    letters = await read_letters(settings, wanted.span)
    deep = Deep()
    for partition in await partitions_of(settings, settings.topics.ledger):
        facts = Facts(partition, wanted, letters)
        await read_partition(settings, facts)
        if location is not None:
            # Opened again for each partition: a running flow log has gone on meanwhile.
            read_archive(location, facts)
        deep.add(facts, compare(facts))
    if location is not None:
        deep.findings += check_rollups(location, wanted.span)
    return deep
