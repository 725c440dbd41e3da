# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg`: the archive's files as an Apache Iceberg table, for Trino, Spark, Athena, ClickHouse.

Exit status 0 if the table holds what the archive does, 2 if not.
"""

import importlib.util
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from common.amounts import counted, human
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.durations import Duration, parse_duration
from common.input.locations import without_secrets
from common.terminal import say
from history.model.time_range import Since, parse_since
from history.read.archive.opened import FlowArchive
from history.upkeep.settings import ArchiveSettings
from sinks.flowlog.stores.opening import local_path

if TYPE_CHECKING:
    from history.upkeep.iceberg.mirror import Change

_CATALOG_FILE = "catalog.db"


def _table(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]{1,128}(\.[a-z0-9_]{1,128})+", value, re.ASCII):
        raise ValueError("expected NAMESPACE.TABLE of a-z, 0-9 and _, for example, zonemeter.flows")
    return value


def _catalog(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", value, re.ASCII):
        raise ValueError("expected the name of a catalog of pyiceberg's settings, for example, glue")
    return value


class IcebergSettings(ArchiveSettings):
    """Publish the flow log's files as an Apache Iceberg table that other engines read. No row is copied."""

    table: Annotated[str, AfterValidator(_table)] = Field(
        "zonemeter.flows", description="namespace and name of the table"
    )
    catalog: Annotated[str, AfterValidator(_catalog)] | None = Field(
        None,
        description="a catalog (REST, Glue, Hive, SQL) by its name in pyiceberg's own settings: "
        "PYICEBERG_CATALOG__NAME__URI or .pyiceberg.yaml; default: a SQLite file",
    )
    catalog_file: Path | None = Field(
        None, description="the SQLite file, where no --catalog is named (default: _iceberg/catalog.db in the archive)"
    )
    since: Since | None = Field(None, description="publish only flows since then (default: all)")
    keep_snapshots: Duration = Field(
        "1d", description="forget the table's snapshots that are older than this; the newest stays"
    )

    def file(self) -> Path | None:
        """Return the SQLite file, None where a catalog is named; raise `Refusal` where neither is known."""
        if self.catalog is not None:
            if self.catalog_file is not None:
                raise Refusal("catalog and catalog_file: both are given; expected one of them")
            return None
        root = local_path(self.archive)
        if self.catalog_file is None and root is None:
            raise Refusal(
                "catalog: none is named; expected --catalog, or --catalog-file for an archive in an object store"
            )
        return self.catalog_file or Path(str(root), "_iceberg", _CATALOG_FILE)


@entry_point("archive iceberg", IcebergSettings)
def main(settings: IcebergSettings) -> int:
    """Run the command; return its exit status."""
    file = settings.file()
    for module in ("pyiceberg", "sqlalchemy"):
        if importlib.util.find_spec(module) is None:
            raise Refusal(f"{module} is not installed; expected zonemeter[iceberg]: pip install 'zonemeter[iceberg]'")
    from history.upkeep.iceberg.catalog import FAILURES

    try:
        _publish(settings, file)
    except FAILURES as error:
        said = " ".join(str(without_secrets(str(error))).split())[:300] or type(error).__name__
        raise Refusal(f"catalog = {settings.catalog or str(file)!r}: {said}") from error
    return 0


def _publish(settings: IcebergSettings, file: Path | None) -> None:
    from history.upkeep.iceberg.catalog import answered, files_prefix, open_catalog, open_table
    from history.upkeep.iceberg.mirror import expire_snapshots, publish

    now_ms = time.time_ns() // 1_000_000
    # What is not an archive is refused before anything is made beside it.
    FlowArchive(settings.archive)
    prefix = files_prefix(settings.archive)
    if settings.dry_run and file is not None and not file.exists():
        say(f"would create {settings.table}")
        return
    with answered(lambda: open_catalog(settings.catalog, file, settings.archive)) as catalog:
        table = answered(lambda: open_table(catalog, settings.table, prefix, create=not settings.dry_run))
        if table is None:
            say(f"would create {settings.table}")
            return
        since_ms = parse_since(settings.since, now_ms) if settings.since else 0
        change = publish(table, settings.archive, prefix, since_ms, dry_run=settings.dry_run)
        _say(settings, change)
        if settings.dry_run:
            return
        expired = expire_snapshots(table, now_ms - parse_duration(settings.keep_snapshots))
        if expired:
            say(f"{counted(expired, 'snapshot')} forgotten")
        say(f"metadata: {table.metadata_location}")


def _say(settings: IcebergSettings, change: "Change") -> None:
    would = "would add" if settings.dry_run else "added"
    if change.added or change.gone:
        size = human(sum(file.size_bytes for file in change.added))
        say(f"{settings.table}: {would} {counted(len(change.added), 'file')} of {size}, took out {len(change.gone):,}")
    else:
        say(f"{settings.table}: nothing new")
    say(f"{counted(change.files, 'file')} of {human(change.size_bytes)}, {change.rows:,} flows")
