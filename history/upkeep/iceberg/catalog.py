# SPDX-License-Identifier: Apache-2.0
"""Opens the table to publish to, in a catalog: a SQLite file, or one that pyiceberg's own settings describe."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from pyiceberg import exceptions
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.io.pyarrow import pyarrow_to_schema
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.name_mapping import MappedField, NameMapping
from pyiceberg.transforms import HourTransform
from pyiceberg.utils.config import Config
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from common.errors import Refusal
from history.read.batch import SCHEMA
from sinks.flowlog.stores.object_client import s3_access
from sinks.flowlog.stores.opening import local_path

T = TypeVar("T")

DIRECTORY = "_iceberg"
# Of a table: the archive that it is of.
ARCHIVE = "zonemeter.archive"
DEADLINE_SECONDS = 300
# What they raise has nothing in common.
FAILURES = (
    *(each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, Exception)),
    SQLAlchemyError,
    BotoCoreError,
    ClientError,
    pa.ArrowException,
    ImportError,
    OSError,
    TypeError,
    ValueError,
)
_PROPERTIES = {
    # The files are the archive's: no engine may delete them with the table, or with its old snapshots.
    "gc.enabled": "false",
    # The least and the greatest value of a column may be a person's address, and would stay when that is erased.
    TableProperties.DEFAULT_WRITE_METRICS_MODE: "none",
    f"{TableProperties.METRICS_MODE_COLUMN_CONF_PREFIX}.window_start": "full",
    f"{TableProperties.METRICS_MODE_COLUMN_CONF_PREFIX}.window_end": "full",
    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
    TableProperties.METADATA_PREVIOUS_VERSIONS_MAX: "10",
}


def answered(call: Callable[[], T]) -> T:
    """Return what a call returns; raise what it raises, or `TimeoutError`: pyiceberg waits for a catalog forever."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return future.result(DEADLINE_SECONDS)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {DEADLINE_SECONDS} s") from None


def files_prefix(location: str) -> str:
    """Return what stands before an archive's paths in a table; raise `Refusal` for what is read otherwise in a URI."""
    path = local_path(location)
    prefix = f"file://{path.resolve()}/" if path else unquote(location.partition("?")[0]).rstrip("/") + "/"
    if found := sorted({*"#?%"} & {*prefix}):
        raise Refusal(f"archive = {location!r}: an Iceberg table cannot name files below a path with {found[0]!r}")
    return prefix


def open_catalog(name: str | None, file: Path | None, location: str) -> Catalog:
    """Return the catalog of that name, or that SQLite file; raises `FAILURES`."""
    access = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO", **_access(location)}
    if name is None:
        assert file is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        warehouse = files_prefix(location) + DIRECTORY
        # Quoted: a ? in a path would begin options, and a % stand for another character.
        uri = URL.create("sqlite", database=str(file)).render_as_string()
        return load_catalog("zonemeter", type="sql", uri=uri, warehouse=warehouse, **access)
    configured = Config().get_catalog_config(name)
    if configured is None:
        raise ValueError(
            f"pyiceberg knows no catalog of that name; expected PYICEBERG_CATALOG__{name.upper()}__URI "
            "or .pyiceberg.yaml"
        )
    return load_catalog(name, **{**access, **configured})  # type: ignore[arg-type]


def open_table(catalog: Catalog, name: str, prefix: str, *, create: bool = True) -> Table | None:
    """Return the table, and create it if it is not there, unless it is not to be created: then None.

    Raises `Refusal` for a table that is of something else, and `FAILURES`.
    """
    try:
        table = catalog.load_table(name)
    except exceptions.NoSuchTableError:
        if not create:
            return None
        table = _create(catalog, name, prefix)
    if (found := table.properties.get(ARCHIVE)) != prefix:
        what = f"is of the archive {found}" if found else "was not made by this command"
        raise Refusal(f"table {name} {what}; expected one of {prefix}: name another --table")
    return table


def _create(catalog: Catalog, name: str, prefix: str) -> Table:
    namespace = name.rpartition(".")[0]
    if not catalog.namespace_exists(namespace):
        catalog.create_namespace_if_not_exists(namespace)
    numbered = NameMapping([MappedField(field_id=id_, names=[each]) for id_, each in enumerate(SCHEMA.names, 1)])
    schema = pyarrow_to_schema(SCHEMA, name_mapping=numbered)
    source_id = schema.find_field("window_start").field_id
    # A file's flows began in one hour: so each file is of one partition, and is taken as it is.
    spec = PartitionSpec(PartitionField(source_id, 1000, HourTransform(), "window_start_hour"))
    try:
        return catalog.create_table(name, schema, partition_spec=spec, properties=_PROPERTIES | {ARCHIVE: prefix})
    except exceptions.TableAlreadyExistsError:
        return catalog.load_table(name)


def _access(location: str) -> dict[str, str]:
    """Return how pyiceberg reaches the archive's files, in its words."""
    scheme, _, rest = location.partition("://")
    if scheme in ("abfs", "abfss"):
        return {"adls.account-name": rest.partition("@")[2].partition(".")[0]}
    if scheme != "s3":
        return {}
    access = s3_access(location)
    named = {
        "s3.endpoint": access.end_point,
        "s3.region": access.region,
        "s3.access-key-id": access.key_id,
        "s3.secret-access-key": access.secret,
        "s3.session-token": access.token,
    }
    return {name: value for name, value in named.items() if value}
