# SPDX-License-Identifier: Apache-2.0
"""An archive of two hours, and its Iceberg table."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.table import Table

from history.upkeep.iceberg.command import main
from tests.history.conftest import Command
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, HOUR_MS, Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Three files in each of two hours."""
    made = Written(tmp_path / "archive")
    for number in range(6):
        made.cut(number % 3, flows(number % 3, number + 1, start_ms=BEGIN_MS + number // 3 * HOUR_MS))
    return made


@pytest.fixture
def publish(written: Written, command: Command) -> Callable[..., str]:
    """Publish the archive; give what was said."""

    def run(*flags: str) -> str:
        status, out, err = command(main, "--archive", str(written.root), *flags)
        assert (status, err) == (0, ""), err
        return out

    return run


def opened(written: Written) -> Catalog:
    """Return the archive's own catalog."""
    return load_catalog("zonemeter", type="sql", uri=f"sqlite:///{written.root}/_iceberg/catalog.db")


@pytest.fixture
def table(written: Written) -> Iterator[Callable[[], Table]]:
    """Open the table, as it is now."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(opened(written)).load_table("zonemeter.flows")


def files_of(table: Table) -> list[str]:
    """Return the paths of the table's files, as they stand in the archive."""
    return sorted(task.file.file_path.partition("/archive/")[2] for task in table.scan().plan_files())


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Return the table's rows by pyiceberg, in order of their ids."""
    return sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])


def rewrite(written: Written, path: str, change: Callable[[Any], Any]) -> None:
    """Write a file of the archive again, with other columns."""
    whole = written.root / path
    pq.write_table(change(pq.ParquetFile(whole).read()), whole, store_schema=False)
