# SPDX-License-Identifier: Apache-2.0
"""`make bench-bill`: a month's Cost and Usage Report of ten million lines, read and compared.

200 nodes for 30 days by the hour: 288,000 lines of what crossed zones, 712,000 of other transfer, of 2,000 resources,
nine million of all else, 25 columns. *Ours* is `zonemeter bill FILE` from the file to the answer, without reading
flows: what was metered is made up. The yardstick is DuckDB with its defaults, which adds up the amount and the cost of
the same file by usage type, in CPU seconds.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from bench.commands.readers.bill import BEGIN, HOURS, NODES
from bench.measure import report
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.reading import Readings
from bench.measure.report import Table

_LINES = 10_000_000
_OF_TRANSFER = 1_000_000
_MOST_SECONDS, _MOST_MB = 60.0, 1000.0

_ACROSS = 2 * NODES * HOURS
# Of each line: which node, hour and way it is of, or which other resource; amounts that differ.
_ROWS = f"""
    SELECT n, n < {_ACROSS} AS across, n < {_OF_TRANSFER} AS transfer,
        n // 2 % {NODES} AS node, n % 2 = 0 AS goes_out, (n // {2 * NODES}) % {HOURS} AS hour,
        hash(n) % 2000 AS resource, 0.5 + (hash(n, 1) % 1000000) / 1000000.0 AS used
    FROM range({_LINES}) AS lines(n)
"""
_COLUMNS = f"""
    md5(n::VARCHAR) AS identity_line_item_id,
    strftime(began, '%Y-%m-%dT%H:00:00Z/') || strftime(began + INTERVAL 1 HOUR, '%Y-%m-%dT%H:00:00Z')
        AS identity_time_interval,
    'Anniversary' AS bill_bill_type, 'AWS' AS bill_billing_entity, '2026110001' AS bill_invoice_id,
    '999988887777' AS bill_payer_account_id, TIMESTAMP '{BEGIN}' AS bill_billing_period_start_date,
    '111122223333' AS line_item_usage_account_id, 'Usage' AS line_item_line_item_type,
    began AS line_item_usage_start_date, began + INTERVAL 1 HOUR AS line_item_usage_end_date,
    'AmazonEC2' AS line_item_product_code,
    CASE WHEN across THEN 'EU-DataTransfer-Regional-Bytes' WHEN transfer THEN
        ['EU-NatGateway-Bytes', 'EU-DataTransfer-Out-Bytes', 'EU-DataTransfer-Regional-Bytes'][1 + n % 3]
        ELSE ['EU-BoxUsage:m7g.large', 'EU-EBS:VolumeUsage.gp3', 'EU-LoadBalancerUsage', 'Requests'][1 + n % 4] END
        AS line_item_usage_type,
    CASE WHEN across THEN if(goes_out, 'InterZone-Out', 'InterZone-In') WHEN transfer THEN 'PublicIP-Out'
        ELSE 'RunInstances' END AS line_item_operation,
    if(across, 'eu-west-1a', '') AS line_item_availability_zone,
    if(across, printf('i-%017x', node), printf('i-f%016x', resource)) AS line_item_resource_id,
    used AS line_item_usage_amount, 'USD' AS line_item_currency_code, '0.0100000000' AS line_item_unblended_rate,
    used * 0.01 AS line_item_unblended_cost,
    '$0.010 per GB - regional data transfer - in/out/between EC2 AZs or using elastic IPs or ELB'
        AS line_item_line_item_description,
    'Data Transfer' AS product_product_family, 'eu-west-1' AS product_region_code, 'GB' AS pricing_unit,
    used * 0.01 AS pricing_public_on_demand_cost, MAP {{'user_team': 'shop', 'user_env': 'prod'}} AS resource_tags
"""


def make(path: Path) -> None:
    """Write the report, as Parquet or as packed CSV."""
    how = "FORMAT parquet, COMPRESSION zstd" if path.suffix == ".parquet" else "FORMAT csv, HEADER, COMPRESSION gzip"
    rows = f"SELECT *, TIMESTAMP '{BEGIN}' + to_hours(hour::INT) AS began FROM ({_ROWS})"
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false; SET preserve_insertion_order = false")
        database.execute(f"COPY (SELECT {_COLUMNS} FROM ({rows})) TO '{path}' ({how})")


def _figures(path: Path, rounds: int) -> list[Figure]:
    name = f"{path.name}, {path.stat().st_size / 1e6:,.0f} MB"
    readings = Readings("bench.commands.readers.bill", str(path))
    ours, yardstick = in_turn(rounds, readings.ours, readings.yardstick)
    seconds, peaks = ([took[what] for took in readings.taken[1:]] for what in ("seconds", "peak_mb"))
    return [
        Figure(name, "CPU s", ours, yardstick),
        Figure(f"{name}, from start to end", "s", seconds, target=Target(_MOST_SECONDS)),
        Figure(f"{name}, resident at most", "MB", peaks, target=Target(_MOST_MB)),
    ]


def measure(rounds: int) -> Sequence[Table]:
    """Return the table."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as directory:
        for name in ("cur.parquet", "cur.csv.gz"):
            path = Path(directory) / name
            make(path)
            figures += _figures(path, rounds)
            path.unlink()
    return [Table("Ten million lines", (__doc__ or "").partition("\n\n")[2], figures)]


if __name__ == "__main__":
    sys.exit(report.main("bill", "A bill", measure))
