# SPDX-License-Identifier: Apache-2.0
"""The settings of the commands that look after an archive, and how they open it."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field

from common.errors import Refusal
from common.input.durations import Duration
from common.input.locations import Location, without_secrets
from common.input.sizes import Size
from common.settings import Settings
from common.terminal import complain
from history.model.time_range import Since
from history.read.archive.opened import FlowArchive
from sinks.flowlog.stores.objects import ObjectStore, StoreError


class ArchiveSettings(Settings):
    """An archive to look after."""

    archive: Location = Field(min_length=1, description="directory or URI of the Parquet flow log")
    dry_run: bool = Field(False, description="only say what would be done")


class RewriteSettings(ArchiveSettings):
    """How files are rewritten."""

    file_size: Size = Field(
        ByteSize(256 * 1024 * 1024), ge=1024 * 1024, description="size of a file, about, beyond which a next one begins"
    )
    spill_directory: Path | None = Field(
        None, description="where files are sorted: needs three times an hour's bytes (default: a temporary directory)"
    )

    delete_after: Duration = Field(
        "1m", description="how long to keep files that others have replaced: reports that have them open can finish"
    )

    def check(self) -> None:
        """Raise `Refusal` where that directory is none."""
        if self.spill_directory is not None and not self.spill_directory.is_dir():
            raise Refusal(f"spill_directory = {str(self.spill_directory)!r} is not a directory")


class CompactSettings(RewriteSettings):
    """Write few, sorted files an hour in the place of the flow log's many small ones."""

    since: Since = Field("14d", description="how far back to look for hours to compact")
    min_age: Duration = Field(
        "2h", description="leave hours alone that ended less than this ago; more than the flow log's --cut-seconds"
    )
    max_files: int = Field(
        4,
        ge=0,
        description="files of the flow log that an hour may keep as they are, until it is old (--keep-manifests)",
    )
    old_times: bool = Field(
        False,
        description="also rewrite compacted files of older versions, whose times are not in microseconds: readers of "
        "Iceberg refuse them",
    )
    keep_manifests: Duration = Field(
        "7d", description="delete manifests older than this whose files were all compacted or have expired"
    )


class EraseSettings(RewriteSettings):
    """Take addresses out of the flow log's older flows: all but those of pods, nodes and Services. The flows stay."""

    older_than: Duration = Field(description="only in hours that ended longer ago than this, such as 30d")
    keep: Literal["network", "nothing"] = Field(
        "network", description="what is left of an address: 24 bits of IPv4 and 48 of IPv6, or nothing"
    )


class ExpireSettings(ArchiveSettings):
    """Delete hours of the flow log, whole, oldest first."""

    keep: Duration = Field(
        "395d",
        description="delete hours that ended longer ago than this; those of the last day, and of the newest flows, "
        "stay",
    )
    max_size: Size | None = Field(
        None, gt=0, description="delete more hours until the rest takes no more than this, rollups not counted"
    )
    keep_rollups: Duration = Field(
        "1830d",
        description="delete rollups of hours that ended longer ago than this; until then they outlive their hour's "
        "flows",
    )
    newest_too: bool = Field(
        False,
        description="also delete the newest flows once they are old enough: only where no flow log writes any more",
    )


def open_archive(settings: ArchiveSettings) -> FlowArchive:
    """Open the archive to write to it; raise `Refusal` if that cannot be."""
    archive = FlowArchive(settings.archive)
    if isinstance(archive.store, ObjectStore) and not settings.dry_run:
        place = without_secrets(settings.archive)
        try:
            exclusive = archive.store.probe()
        except StoreError as error:
            raise Refusal(f"archive = {place!r}: {error}; expected a place that can be written to") from error
        if not exclusive:
            complain(
                f"archive = {place!r}: the object store replaces what was to be created only (it lacks If-None-Match); "
                "run one upkeep command at a time"
            )
    return archive
