# SPDX-License-Identifier: Apache-2.0
"""One snapshot of an Iceberg table: files that come and files that go, at once.

By pyiceberg's own producer of snapshots, of which three things are changed. This needs its inner parts, so its version
is pinned.
"""

from collections.abc import Iterable, Mapping
from typing import NoReturn

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import TableProperties, Transaction
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _ManifestMergeManager, _OverwriteFiles

# As many, or fewer, are left as they are.
FEW_MANIFESTS = 20


class Exchange(_OverwriteFiles):
    """The snapshot. `properties`: what its summary says beside the sums."""

    def __init__(
        self,
        transaction: Transaction,
        added: Iterable[DataFile],
        gone: Iterable[DataFile],
        properties: Mapping[str, str],
    ) -> None:
        added, gone = list(added), list(gone)
        super().__init__(
            # Readers that follow a table read appends only.
            operation=Operation.OVERWRITE if gone else Operation.APPEND,
            transaction=transaction,
            io=transaction._table.io,  # noqa: SLF001 - there is no other way to it
            snapshot_properties=dict(properties),
        )
        for file in added:
            self.append_data_file(file)
        for file in gone:
            self.delete_data_file(file)

    def _validate_concurrency(self) -> NoReturn:
        """Refuse what pyiceberg does where another commit came first: the same files on top of what that one added."""
        raise CommitFailedException("another process changed the table meanwhile")

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        """Merge small manifests, and leave out those of which no file is left: a run each hour would pile them up."""
        left = [each for each in manifests if each.added_snapshot_id == self._snapshot_id or _has_files(each)]
        merge = _ManifestMergeManager(
            target_size_bytes=TableProperties.MANIFEST_TARGET_SIZE_BYTES_DEFAULT,
            min_count_to_merge=FEW_MANIFESTS,
            merge_enabled=True,
            snapshot_producer=self,
        )
        merged = merge.merge_manifests(left)
        for path in {*self._written_manifests} - {each.manifest_path for each in merged}:
            # Written a moment ago, and merged into another: no snapshot will name it.
            self._io.delete(path)
            self._written_manifests.remove(path)
        return merged


def _has_files(manifest: ManifestFile) -> bool:
    return manifest.has_added_files() or manifest.has_existing_files()
