# SPDX-License-Identifier: Apache-2.0
"""`zonemeter replay --sum`: what the flows that it would list come to, by scope. An overlay's outer packets apart."""

from collections import defaultdict
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from common.amounts import columns, labelled
from common.terminal import say, write_json
from history.model.time_range import TimeRange
from history.read.batch import FlowBatch
from schemas.amount import NOTHING, Amount
from schemas.flow import OUTER

CSV_COLUMNS = ("scope", "flows", "bytes", "packets")


class SumWriter:
    """Adds up, and prints at the end. `output`: table, json, jsonl or csv."""

    def __init__(self, span: TimeRange, source: str, output: str, stream: BinaryIO) -> None:
        self._span = span
        self._source = source
        self._output = output
        self._stream = stream
        self._sums: dict[str, Amount] = defaultdict(lambda: NOTHING)

    async def write(self, batch: FlowBatch) -> None:
        """Take some flows."""
        table = batch.counted().select(["scope", "encapsulation", "bytes", "packets", "flows"])
        name = pc.if_else(pc.is_valid(table["encapsulation"]), pa.scalar(OUTER), table["scope"])
        grouped = table.append_column("name", name).group_by("name")
        for row in grouped.aggregate([("bytes", "sum"), ("packets", "sum"), ("flows", "sum")]).to_pylist():
            self._sums[row["name"]] += Amount(row["bytes_sum"], row["packets_sum"], row["flows_sum"])

    async def finish(self) -> None:
        """Print."""
        if self._output == "table":
            say(*self.lines())
        elif self._output == "csv":
            rows = [CSV_COLUMNS, *((name, each.rows, each.bytes, each.packets) for name, each in self._ordered())]
            self._stream.write("".join(f"{','.join(map(str, row))}\n" for row in rows).encode())
        else:
            write_json(self.as_dict(), indent=self._output == "json")

    def lines(self) -> list[str]:
        """Return the sums as a table; the last row is all but outer packets, which are in it by their inner ones."""
        rows = [("scope", "flows", "bytes", "packets")]
        rows += [_row(name.replace("_", " "), each) for name, each in self._ordered() if name != OUTER]
        rows.append(_row("all", self._total()))
        if OUTER in self._sums:
            rows.append(_row("overlay's outer packets", self._sums[OUTER]))
        head = labelled("zonemeter replay", [str(self._span), self._source], 19)
        return [*head, "", *columns(rows, "<>>>")]

    def as_dict(self) -> dict[str, Any]:
        """Return the sums as plain JSON types."""
        return {
            **_plain(self._total()),
            "scopes": {name: _plain(each) for name, each in self._ordered() if name != OUTER},
            "overlay_outer": _plain(self._sums.get(OUTER, NOTHING)),
        }

    def _ordered(self) -> list[tuple[str, Amount]]:
        return sorted(self._sums.items(), key=lambda item: (-item[1].bytes, item[0]))

    def _total(self) -> Amount:
        return sum((each for name, each in self._sums.items() if name != OUTER), NOTHING)


def _row(name: str, amount: Amount) -> tuple[str, str, str, str]:
    return name, f"{amount.rows:,}", f"{amount.bytes:,}", f"{amount.packets:,}"


def _plain(amount: Amount) -> dict[str, int]:
    return {"flows": amount.rows, "bytes": amount.bytes, "packets": amount.packets}
