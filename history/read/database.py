# SPDX-License-Identifier: Apache-2.0
"""Empty DuckDB databases: what every question, compaction and rollup asks its SQL of."""

import re
from pathlib import Path

import duckdb

# Of a database that spills.
_MEMORY, _THREADS = "512MB", 2


def literal(path: str) -> str:
    """Return the path of a file as DuckDB takes it: else the names of directories would be patterns."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def open_database() -> duckdb.DuckDBPyConnection:
    """Return an empty database in memory."""
    database = duckdb.connect()
    database.execute("SET enable_progress_bar = false")
    database.execute("SET TimeZone = 'UTC'")
    return database


def bounded_database(directory: Path) -> duckdb.DuckDBPyConnection:
    """Return an empty database that takes so much memory and no more; the rest goes to a directory."""
    database = open_database()
    database.execute(f"SET memory_limit = '{_MEMORY}'")
    database.execute(f"SET threads = {_THREADS}")
    database.execute("SET preserve_insertion_order = false")
    database.execute("SET temp_directory = ?", [str(directory / "spilled")])
    return database
