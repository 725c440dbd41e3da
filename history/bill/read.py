# SPDX-License-Identifier: Apache-2.0
"""Reads a bill's files with DuckDB into one table of the lines that are about transfer, and adds those up.

A month of a large account is tens of millions of lines, of which few are about transfer. Files are streamed; what is
kept lies in a database whose memory is bounded, and goes to disk beyond it. Whatever is wrong with a file is one line.

Names of columns are quoted, what a file or a user says is a value or a parameter; all else in the SQL is ours.
"""
# ruff: noqa: S608

import gzip
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb

from common.amounts import counted
from common.errors import Refusal
from common.input.files import scratch
from history.bill.books.sums import ALL, DAY_MS, HOUR_MS, Billed, Cell, Quantity, Rates
from history.bill.formats.columns import Columns
from history.bill.formats.form import CROSSING, FORM, Format
from history.bill.formats.recognise import recognise
from history.model.time_range import TimeRange
from history.read.archive.limits import MAX_FOOTER_BYTES, footer_bytes
from history.read.database import open_database
from history.read.flow_sql import FETCH_ROWS

MEMORY_LIMIT = "512MB"
# Of resources that are not nodes, and of names of other transfer.
MOST_OTHERS = 20
Packed = Literal["none", "gzip", "zstd"]
_PARQUET, _ZIP = b"PAR1", b"PK\x03\x04"
_PACKED: dict[bytes, Packed] = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
_CROSSING = f"kind IN {CROSSING}"
_SUMS = """coalesce(sum(round(amount::DOUBLE * unit_bytes)) FILTER (unit_bytes IS NOT NULL), 0)::HUGEINT,
    coalesce(sum(amount) FILTER (unit_bytes IS NULL), 0), coalesce(sum(cost), 0), count(*)"""
_SUMS_OF_REST = (
    _SUMS.replace("amount", "(amount * (copies - 1))")
    .replace("cost", "cost * (copies - 1)")
    .replace("count(*)", "coalesce(sum(copies - 1), 0)")
)
_SUMS_OF_ALL = _SUMS.replace("amount", "(amount * copies)").replace("cost", "cost * copies")
_TYPES = {
    **dict.fromkeys(("start_ms", "end_ms", "unit_bytes"), "BIGINT"),
    **dict.fromkeys(("amount", "cost"), "DECIMAL(38, 12)"),
    "final": "BOOLEAN",
}


class BillFiles:
    """The lines of a bill that are about transfer between zones, or stand beside it. Raises `Refusal`.

    `notes`: what may be wrong with the files.
    """

    def __init__(self, paths: Sequence[Path], accounts: Collection[str] = ()) -> None:
        self._accounts = list(accounts)
        self._paths = paths
        self._spill = scratch("zonemeter-bill-")
        self._database = open_database()
        self._formats: list[Format] = []
        self._names_resources = True
        self.notes: list[str] = []
        self._database.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        self._database.execute("SET temp_directory = ?", [self._spill.name])
        self._database.execute("SET preserve_insertion_order = false")
        columns = ", ".join(f"{name} {_TYPES.get(name, 'VARCHAR')}" for name in FORM)
        self._database.execute(f"CREATE TABLE lines ({columns}, copies BIGINT)")
        self._database.execute("CREATE TABLE nodes (resource VARCHAR)")
        try:
            for number, path in enumerate(paths):
                self._read(path, number)
            self._bring_together()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "BillFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database, and of what of it is on disk."""
        self._database.close()
        self._spill.cleanup()

    @property
    def span(self) -> TimeRange:
        """The time that its lines are of."""
        return TimeRange(self._from_ms, self._to_ms)

    def billed(self, span: TimeRange, nodes: Collection[str]) -> Billed:
        """Return what it comes to in a range of whole periods; `nodes`: what it calls the cluster's."""
        matched = self._names_resources and bool(nodes)
        self._database.execute("DELETE FROM nodes")
        self._database.executemany("INSERT INTO nodes VALUES (?)", [[each] for each in sorted(nodes)] or [[""]])
        found = Billed(
            provider=self._provider,
            title=self._formats[0].name,
            files=len(self._paths),
            lines=self._one(f"SELECT coalesce(sum(copies), 0) FROM lines WHERE {_within(span)}"),
            period_ms=self.period_ms,
            from_ms=self._from_ms,
            to_ms=self._to_ms,
            currency=self._currency,
            is_final=self._one(f"SELECT bool_and(final) FROM lines WHERE {_within(span)}"),
            names_resources=self._names_resources,
        )
        self._add_cells(found, span, matched)
        usage = f"charge = 'usage' AND {_within(span)}"
        again = f"copies > 1 AND {_CROSSING} AND {usage}"
        found.twice = _quantity(*self._rows(f"SELECT {_SUMS_OF_REST} FROM lines WHERE {again}")[0])
        found.regional = self._by("name", f"kind = 'regional' AND {usage}")
        # Lines of these that look the same may differ in what is not kept of them.
        found.apart = self._by("name", f"kind = 'apart' AND {usage}", MOST_OTHERS, sums=_SUMS_OF_ALL)
        charges = f"charge <> 'usage' AND kind IN {(*CROSSING, 'regional')} AND {_within(span)}"
        found.charges = self._by("charge", charges)
        found.accounts = self._by("account", f"{_CROSSING} AND {usage}")
        if matched:
            elsewhere = f"{_CROSSING} AND {usage} AND resource NOT IN (SELECT resource FROM nodes)"
            found.others = self._by("account || '/' || resource", elsewhere, MOST_OTHERS)
            distinct = f"SELECT count(DISTINCT (account, resource)) FROM lines WHERE {elsewhere}"
            found.other_resources = self._one(distinct)
        self._add_rates(found, span)
        return found

    def _read(self, path: Path, number: int) -> None:
        view = f"file_{number}"
        with _refusing(path):
            self._open(path, self._called(path, view), view)
            nested = self._database.view(view)
            children = [[name for name, _ in kind.children] if kind.id == "struct" else [] for kind in nested.types]
            columns = Columns.of(list(zip(nested.columns, children, strict=True)))
        found = recognise(columns, str(path))
        self._formats.append(found)
        self._names_resources &= columns.find(*found.resource) is not None
        form = found.form(columns)
        expressions = ", ".join(f"{form[name]} AS {name}" for name in FORM)
        # What is wanted is few of the columns and of the lines: the kind decides before the rest is looked at.
        query = f"""INSERT INTO lines SELECT {", ".join(FORM)}, 1
            FROM (SELECT {expressions} FROM {view} WHERE ({form["kind"]}) IS NOT NULL)"""
        with _refusing(path):
            self._database.execute(query)
        self._check(path)

    def _called(self, path: Path, view: str) -> str:
        """Return a name of the file in which DuckDB finds no pattern: "cur[1].csv" would be one."""
        link = Path(self._spill.name) / view
        link.symlink_to(path.resolve())
        return str(link)

    def _open(self, path: Path, name: str, view: str) -> None:
        kind, packed = _kind(path)
        if kind == "parquet":
            self._database.read_parquet(name, hive_partitioning=False).create_view(view)
        elif kind == "json":
            self._database.read_json(name, compression=_unless_none(packed), maximum_object_size=16 << 20).create_view(
                view
            )
        else:
            if packed == "none" and not _ends_with_a_line(path):
                self.notes.append(f"{path}: its last line has no end; was the file cut off?")
            # All as text: what a number or a time is, a bill's columns say, and no sample of its lines.
            self._database.read_csv(
                name,
                header=True,
                all_varchar=True,
                delimiter=",",
                quotechar='"',
                escapechar='"',
                compression=_unless_none(packed),
            ).create_view(view)

    def _check(self, path: Path) -> None:
        """Refuse a file of which a line that counts cannot be read; later files find nothing that is wrong before."""
        bad = "start_ms IS NULL OR amount IS NULL OR cost IS NULL OR unit_bytes = 0"
        found = self._one(f"SELECT count(*) FROM lines WHERE {_CROSSING} AND ({bad})")
        if found:
            raise Refusal(
                f"{path}: {counted(found, 'line')} of transfer between zones without a time, an amount in bytes or a "
                "cost that can be read; is the file whole?"
            )
        longest = self._one(f"SELECT coalesce(max(end_ms - start_ms), 0) FROM lines WHERE {_CROSSING}")
        if longest > DAY_MS:
            days = longest // DAY_MS
            raise Refusal(f"{path}: its lines are of {days} days each; export the bill by the day or by the hour")

    def _bring_together(self) -> None:
        """Count lines that are the same in all that matters once, and note how often each came."""
        names = ", ".join(FORM)
        self._database.execute(
            f"CREATE TABLE counted AS SELECT {names}, sum(copies)::BIGINT AS copies FROM lines GROUP BY ALL"
        )
        self._database.execute("DROP TABLE lines")
        self._database.execute("ALTER TABLE counted RENAME TO lines")
        if self._accounts:
            self._keep_accounts()
        self._provider = self._only("provider", "of one cloud at a time")
        # Azure charges nothing for crossing zones: that a bill lacks such lines is as it should be.
        about = "true" if self._provider == "azure" else "kind <> 'apart'"
        from_ms, to_ms, longest = self._rows(
            "SELECT min(start_ms), max(coalesce(end_ms, start_ms + 1)), max(coalesce(end_ms - start_ms, 86400000)) "
            f"FROM lines WHERE {about}"
        )[0]
        if from_ms is None:
            raise Refusal(f"{self._where}: {self._formats[0].name} without a line of transfer within a region")
        self.period_ms = HOUR_MS if longest <= HOUR_MS else DAY_MS
        self._from_ms = from_ms // self.period_ms * self.period_ms
        self._to_ms = -(-to_ms // self.period_ms) * self.period_ms
        self._currency = self._only("currency", "of one currency, or choose --account", about)

    @property
    def _where(self) -> str:
        return ", ".join(str(path) for path in self._paths[:3])

    def _only(self, column: str, wanted: str, where: str = "true") -> str:
        """Return the one value that a column has; raise `Refusal` if there are several."""
        values = [each for (each,) in self._rows(f"SELECT DISTINCT {column} FROM lines WHERE {where} ORDER BY 1")]
        if len(values) > 1:
            raise Refusal(f"{self._where}: lines of {column} {', '.join(values)}; give files {wanted}")
        return str(values[0]) if values else ""

    def _keep_accounts(self) -> None:
        there = [each for (each,) in self._rows("SELECT DISTINCT account FROM lines ORDER BY 1 LIMIT 20")]
        self._database.execute(
            f"DELETE FROM lines WHERE account NOT IN ({', '.join('?' * len(self._accounts))})", self._accounts
        )
        if not self._one("SELECT count(*) FROM lines"):
            raise Refusal(f"no line of account {', '.join(self._accounts)}; the bill has {', '.join(there)}")

    def _add_cells(self, found: Billed, span: TimeRange, matched: bool) -> None:
        resource = (
            "CASE WHEN resource IN (SELECT resource FROM nodes) THEN resource ELSE '' END" if matched else f"'{ALL}'"
        )
        ways = {way for (way,) in self._rows(f"SELECT DISTINCT kind FROM lines WHERE {_CROSSING} AND {_within(span)}")}
        # Where some lines do not say which way, none are told apart.
        way = "'both'" if "both" in ways else "kind"
        query = f"""SELECT start_ms // {self.period_ms} * {self.period_ms}, {resource}, {way}, {_SUMS}
            FROM lines WHERE {_CROSSING} AND charge = 'usage' AND {_within(span)} GROUP BY 1, 2, 3"""
        for period, name, kind, *sums in self._stream(query):
            found.cells[Cell(period, name, kind)] = _quantity(*sums)

    def _add_rates(self, found: Billed, span: TimeRange) -> None:
        """Add what was billed by region: usage, and the discounts on it that stand in lines of their own."""
        query = f"""SELECT region, kind, {_SUMS} FROM lines
            WHERE {_CROSSING} AND charge = 'usage' AND {_within(span)} GROUP BY 1, 2"""
        for region, kind, *sums in self._stream(query):
            rates = found.rates.setdefault(region, Rates())
            (rates.into if kind == "in" else rates.out).add(_quantity(*sums))
        discounts = f"""SELECT region, kind, coalesce(sum(cost), 0) FROM lines
            WHERE {_CROSSING} AND charge LIKE '%Discount' AND {_within(span)} GROUP BY 1, 2"""
        for region, kind, cost in self._stream(discounts):
            rates = found.rates.setdefault(region, Rates())
            (rates.into if kind == "in" else rates.out).cost += cost

    def _by(self, name: str, where: str, most: int = 10_000, *, sums: str = _SUMS) -> dict[str, Quantity]:
        """Return sums by an expression, the greatest first; what there is no room for is `_other_`."""
        query = f"SELECT {name}, {sums} FROM lines WHERE {where} GROUP BY 1 ORDER BY sum(amount) DESC, 1"
        found: dict[str, Quantity] = {}
        for key, *amounts in self._stream(query):
            found.setdefault(key if len(found) < most else "_other_", Quantity()).add(_quantity(*amounts))
        return found

    def _one(self, query: str) -> Any:
        return self._rows(query)[0][0]

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return list(self._stream(query))

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        result = self._database.execute(query)
        while rows := result.fetchmany(FETCH_ROWS):
            yield from rows


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) in b"\r\n"


def _unless_none(packed: Packed) -> Literal["gzip", "zstd"] | None:
    return None if packed == "none" else packed


def _within(span: TimeRange) -> str:
    return f"start_ms >= {span.from_ms} AND start_ms < {span.to_ms}"


def _quantity(size: int, units: Decimal, cost: Decimal, lines: int) -> Quantity:
    return Quantity(int(size), Decimal(units), Decimal(cost), int(lines))


def _kind(path: Path) -> tuple[Literal["parquet", "json", "csv"], Packed]:
    """Return what a file is, and how it is packed, by how it begins."""
    with _refusing(path):
        if path.exists() and not path.is_file():
            raise Refusal(f"{path}: is a directory, a pipe or a device, not a file")
        with path.open("rb") as file:
            head = file.read(4)
            footer = footer_bytes(file) if head == _PARQUET else 0
        if head == _ZIP:
            raise Refusal(f"{path}: is a ZIP archive; unpack it, and give the files that it holds")
        if footer > MAX_FOOTER_BYTES:  # DuckDB takes it apart outside of its limit
            raise Refusal(f"{path}: its footer has {footer:,} bytes, more than the {MAX_FOOTER_BYTES:,} that are read")
        if head == _PARQUET:
            return "parquet", "none"
        packed: Packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), "none")
        if packed == "zstd":
            return ("json" if ".json" in path.name else "csv"), packed
        with gzip.open(path, "rb") if packed == "gzip" else path.open("rb") as file:
            begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not begin:
            raise Refusal(f"{path}: is empty")
        return ("json" if begin[:1] in b"{[" else "csv"), packed


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into one line."""
    try:
        yield
    except (duckdb.Error, OSError, EOFError, gzip.BadGzipFile) as error:
        if isinstance(error, OSError) and error.strerror:
            raise Refusal(f"{path}: {error.strerror}") from error
        said = " ".join(str(error).split())
        raise Refusal(f"{path}: cannot be read: {said[:300]}; is the file whole?") from error
