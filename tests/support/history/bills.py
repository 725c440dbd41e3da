# SPDX-License-Identifier: Apache-2.0
"""A small cluster's traffic across zones, as nodes metered it and as a cloud bills it: files in the clouds' own forms.

Both are made of the same truth, so a comparison must come out even, but for what a test spoils.
"""

import csv
import gzip
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from history.bill.books.compare import Comparison, compare
from history.bill.books.resources import Nodes
from history.bill.books.sums import DAY_MS, GB, GIB, HOUR_MS, Billed, Metered, NodeCell, Trust
from history.bill.books.unit import Unit
from history.bill.read import BillFiles
from history.model.time_range import timestamp
from schemas.topology import TopologyState
from tests.support.enricher import build

BEGIN_MS = 1_795_392_000_000  # 2026-11-23, 00:00
ACCOUNT = "111122223333"
ZONES = {"node-a1": "eu-west-1a", "node-b1": "eu-west-1b", "node-c1": "eu-west-1c"}
INSTANCES = {"node-a1": "i-0a1b2c3d4e5f60718", "node-b1": "i-0b1b2c3d4e5f60718", "node-c1": "i-0c1b2c3d4e5f60718"}
RATE = Decimal("0.008")  # what they agreed with their cloud


@dataclass(frozen=True)
class Line:
    """A line of a bill, whoever's: what a node sent or got in a period."""

    start_ms: int
    end_ms: int
    node: str
    way: str
    size: int
    usage: str = "EU-DataTransfer-Regional-Bytes"
    operation: str = ""
    resource: str | None = None
    kind: str = "Usage"
    account: str = ACCOUNT
    currency: str = "USD"
    cost: Decimal | None = None
    invoice: str = "inv-1"
    more: Mapping[str, str] = field(default_factory=dict)

    def price(self, unit: int) -> Decimal:
        """Return what it costs."""
        return RATE * self.size / unit if self.cost is None else self.cost


@dataclass(frozen=True)
class Truth:
    """What nodes sent each other, [start, end), by sender and receiver."""

    sent: tuple[tuple[int, str, str, int], ...]
    length_ms: int

    def lines(self) -> list[Line]:
        """Return the bill's lines, one for each node, period and way."""
        sums: dict[tuple[int, str, str], int] = {}
        for at, source, destination, size in self.sent:
            for key in ((at, source, "out"), (at, destination, "in")):
                sums[key] = sums.get(key, 0) + size
        return [Line(at, at + self.length_ms, node, way, size) for (at, node, way), size in sums.items()]

    def metered(self) -> Metered:
        """Return what nodes metered, whole."""
        found = Metered(windows={(at, at + self.length_ms) for at, *_ in self.sent})
        for at, source, destination, size in self.sent:
            found.cells[NodeCell(at, source, "out")] += size
            found.cells[NodeCell(at, destination, "in")] += size
        return found


def truth(periods: int = 4, length_ms: int = HOUR_MS, seed: int = 11) -> Truth:
    """Return traffic between all nodes in each period, of some gigabytes."""
    chance = random.Random(seed)
    sent = [
        (BEGIN_MS + number * length_ms, source, destination, chance.randrange(10**9, 9 * 10**9))
        for number in range(periods)
        for source in ZONES
        for destination in ZONES
        if source != destination
    ]
    return Truth(tuple(sent), length_ms)


def states(provider: str = "aws") -> list[TopologyState]:
    """Return the nodes, with the ids that a cloud gives them."""
    ids = {
        "aws": {name: f"aws:///{ZONES[name]}/{instance}" for name, instance in INSTANCES.items()},
        "gcp": {name: f"gce://my-project/{ZONES[name]}/gke-{name}" for name in ZONES},
        "azure": {name: f"azure://{azure_resource(name)}" for name in ZONES},
    }[provider]
    addresses = {name: f"10.0.0.{number}" for number, name in enumerate(ZONES, 1)}
    early = BEGIN_MS - DAY_MS
    return [
        build.node(name, addresses[name], zone, from_ms=early, provider_id=ids[name]) for name, zone in ZONES.items()
    ]


def azure_resource(name: str) -> str:
    """Return what Azure calls a node."""
    return f"/subscriptions/0000-11/resourceGroups/MC_shop/providers/Microsoft.Compute/virtualMachines/{name}"


def rfc3339(at_ms: int) -> str:
    """Return a time as bills have it."""
    return timestamp(at_ms).replace(" ", "T") + "Z"


def aws_rows(lines: Iterable[Line], unit: int = GB, *, legacy: bool = False) -> list[dict[str, str]]:
    """Return rows of a Cost and Usage Report, with lines that are about something else among them."""
    rows = []
    for number, line in enumerate(lines):
        operation = line.operation or {"out": "InterZone-Out", "in": "InterZone-In"}[line.way]
        resource = INSTANCES.get(line.node, line.node) if line.resource is None else line.resource
        row = {
            "identity_line_item_id": f"id{number}",
            "bill_invoice_id": line.invoice,
            "line_item_usage_account_id": line.account,
            "line_item_line_item_type": line.kind,
            "line_item_usage_start_date": rfc3339(line.start_ms),
            "line_item_usage_end_date": rfc3339(line.end_ms),
            "line_item_product_code": "AmazonEC2",
            "line_item_usage_type": line.usage,
            "line_item_operation": operation,
            "line_item_resource_id": resource,
            "line_item_usage_amount": f"{Decimal(line.size) / unit:.12f}",
            "line_item_currency_code": line.currency,
            "line_item_unblended_cost": f"{line.price(unit):.12f}",
            "product_region_code": "eu-west-1",
        }
        rows.append(row | dict(line.more))
        other = {"line_item_usage_type": "EU-BoxUsage:m7g.large", "line_item_operation": "RunInstances"}
        if number % 3 == 0:
            rows.append(row | other | {"line_item_usage_amount": "1.0", "line_item_unblended_cost": "0.09"})
    return [{_legacy(name): value for name, value in row.items()} for row in rows] if legacy else rows


def _legacy(name: str) -> str:
    group, _, rest = name.replace("line_item_", "lineItem_", 1).partition("_")
    return f"{group}/{''.join(word[:1].upper() + word[1:] for word in rest.split('_'))}".replace(
        "product/RegionCode", "product/regionCode"
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write rows as CSV, packed if the name says so."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = stream.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write rows as Parquet with the types that exports have: times, doubles, text."""
    table = pa.Table.from_pylist([_typed(row) for row in rows])
    pq.write_table(table, path)
    return path


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(row)
    for name, value in row.items():
        if name.lower().endswith(("amount", "cost", "quantity")):
            found[name] = float(value)
        elif name.lower().endswith(("_date", "start", "end", "_time")):
            found[name] = pa.scalar(value.removesuffix("Z")).cast(pa.timestamp("ms")).as_py()
    return found


def compared(
    paths: Path | Sequence[Path],
    metered: Metered,
    *,
    provider: str = "aws",
    trust: Trust | None = None,
    unit: Unit | None = None,
    now_ms: int = BEGIN_MS + 90 * DAY_MS,
    nodes: Nodes | None = None,
) -> tuple[Billed, Comparison]:
    """Read a bill whole and compare it with what was metered."""
    known = Nodes(states(provider)) if nodes is None else nodes
    with BillFiles([paths] if isinstance(paths, Path) else list(paths)) as bill:
        billed = bill.billed(bill.span, known.resources)
    return billed, compare(billed, only(metered, billed), trust or Trust(), known, now_ms, unit)


def only(metered: Metered, billed: Billed) -> Metered:
    """Return what a bill's ways are of, as a reader of flows would give it."""
    if "both" in billed.ways:
        found = replace(metered, cells={})
        for cell, size in metered.cells.items():
            both = cell._replace(way="both")
            found.cells[both] = found.cells.get(both, 0) + size
        return found
    return replace(metered, cells={cell: size for cell, size in metered.cells.items() if cell.way in billed.ways})


def without(metered: Metered, dropped: Iterable[tuple[int, str, str, int]]) -> Metered:
    """Return what was metered without what some nodes sent."""
    for at, source, destination, size in dropped:
        metered.cells[NodeCell(at, source, "out")] -= size
        metered.cells[NodeCell(at, destination, "in")] -= size
    return metered


def reasons(found: Comparison) -> dict[str, int]:
    """Return what each reason comes to."""
    sums: dict[str, int] = {}
    for reason in found.reasons:
        sums[reason.why] = sums.get(reason.why, 0) + reason.bytes
    return sums


# What a cloud may mean by GB.
UNITS = [("GB", GB), ("GiB", GIB)]


def focus_rows(lines: Iterable[Line], unit: int = GB, *, operation: bool = True) -> list[dict[str, str]]:
    """Return rows of AWS's FOCUS export, with x_Operation or without."""
    rows = []
    for line in lines:
        said = line.operation or {"out": "InterZone-Out", "in": "InterZone-In"}[line.way]
        row = {
            "ProviderName": "Amazon Web Services",
            "ChargePeriodStart": rfc3339(line.start_ms),
            "ChargePeriodEnd": rfc3339(line.end_ms),
            "ChargeCategory": line.kind,
            "ChargeClass": "",
            "ConsumedQuantity": f"{Decimal(line.size) / unit:.12f}",
            "ConsumedUnit": "GB",
            "BilledCost": f"{line.price(unit):.12f}",
            "BillingCurrency": line.currency,
            "SubAccountId": line.account,
            "ResourceId": INSTANCES.get(line.node, line.node) if line.resource is None else line.resource,
            "RegionId": "eu-west-1",
            "x_UsageType": line.usage,
            "x_Operation": said,
        }
        rows.append({name: value for name, value in row.items() if operation or name != "x_Operation"})
    return rows


def gcp_rows(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Return rows of Google Cloud's detailed export, nested as BigQuery has them: only what goes out is charged."""
    rows = []
    for line in lines:
        across = "Network Inter Zone Data Transfer Out" if line.way == "out" else "Network Inter Zone Ingress"
        rows.append(
            {
                "sku": {"id": "DE9E-AFBC-A15A", "description": line.operation or across},
                "usage_start_time": rfc3339(line.start_ms),
                "usage_end_time": rfc3339(line.end_ms),
                "project": {"id": "my-project", "number": "1234"},
                "location": {"region": "europe-west1"},
                "resource": {"name": f"projects/1234/instances/{line.resource or f'gke-{line.node}'}"},
                "usage": {"amount": line.size, "unit": "bytes", "pricing_unit": "gibibyte"},
                "cost": float(line.price(GIB)) if line.way == "out" else 0.0,
                "cost_type": "regular",
                "currency": line.currency,
            }
        )
    return rows


def flattened(rows: Iterable[Mapping[str, Any]], between: str = ".") -> list[dict[str, str]]:
    """Return nested rows as CSV can have them."""
    found = []
    for row in rows:
        flat: dict[str, str] = {}
        for name, value in row.items():
            fields = {f"{name}{between}{key}": each for key, each in value.items()} if isinstance(value, dict) else {}
            flat |= {key: str(each) for key, each in (fields or {name: value}).items()}
        found.append(flat)
    return found


def azure_rows(lines: Iterable[Line], unit: int = GB, *, day: str = "%m/%d/%Y") -> list[dict[str, str]]:
    """Return rows of Azure's cost details: by the day, listed at no cost."""
    return [
        {
            "SubscriptionId": "0000-11",
            "Date": datetime.fromtimestamp(line.start_ms / 1000, UTC).strftime(day),
            "MeterName": line.operation or f"Standard Inter-Availability Zone Data Transfer {line.way.capitalize()}",
            "Quantity": f"{Decimal(line.size) / unit:.12f}",
            "UnitOfMeasure": "1 GB",
            "CostInBillingCurrency": f"{line.cost or 0}",
            "BillingCurrency": line.currency,
            "ResourceLocation": "westeurope",
            "ResourceId": azure_resource(line.node).upper(),
            "ChargeType": line.kind,
        }
        for line in lines
    ]
