# SPDX-License-Identifier: Apache-2.0
"""What an Iceberg table says of a Parquet file, out of its footer.

pyiceberg has this in one call, `add_files`, which compares each file's columns with the table's: of ten thousand files
that are alike this takes a minute.
"""

import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table.metadata import TableMetadata


class Describer:
    """Describes files whose columns the table has."""

    def __init__(self, table: TableMetadata) -> None:
        self._schema, self._spec = table.schema(), table.spec()
        self._plan = compute_statistics_plan(self._schema, table.properties)
        self._ids = parquet_path_to_id_mapping(self._schema)

    def describe(self, path: str, footer: pq.FileMetaData, size_bytes: int) -> DataFile:
        """Return what the table says of a file; raise `ValueError` for one whose flows began in several hours."""
        statistics = data_file_statistics_from_parquet_metadata(footer, self._plan, self._ids)
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=path,
            file_format=FileFormat.PARQUET,
            partition=statistics.partition(self._spec, self._schema),
            file_size_in_bytes=size_bytes,
            sort_order_id=None,
            spec_id=self._spec.spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )
