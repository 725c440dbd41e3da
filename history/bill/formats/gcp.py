# SPDX-License-Identifier: Apache-2.0
"""Google Cloud's export to BigQuery, standard and detailed, as CSV, JSON lines or Parquet. Pure.

Who sends pays: the SKU is "Network Inter Zone Data Transfer Out", formerly "... Egress"; what comes in has one of its
own that costs nothing. `usage.amount` is in `usage.unit`, bytes. Only the detailed export names resources. Source:
cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/detailed-usage.
"""

from history.bill.formats.columns import Columns
from history.bill.formats.form import Format, unit_bytes

_RESOURCE = ("resource.name", "resource.global_name")


def kind(sku: str) -> str:
    """Return SQL for what a line is, by SQL for its SKU's description; NULL for what is not about transfer."""
    across = f"({sku} ILIKE '%inter zone%' OR {sku} ILIKE '%inter-zone%')"
    comes_in = f"({sku} ILIKE '%ingress%' OR {sku} ILIKE '%data transfer in%')"
    other = f"{sku} ILIKE '%data transfer%' OR {sku} ILIKE '%egress%'"
    return f"CASE WHEN {across} AND NOT {comes_in} THEN 'out' WHEN {across} OR {other} THEN 'apart' END"


def resource(project: str, name: str) -> str:
    """Return SQL for what a resource is called: its project and the last part of its name."""
    return f"CASE WHEN {name} = '' THEN '' ELSE {project} || '/' || regexp_extract({name}, '[^/]*$') END"


def _form(c: Columns) -> dict[str, str]:
    sku, project = c.text(*c.need("sku.description")), c.text(*c.need("project.id"))
    cost_type = c.text("cost_type")
    return {
        "provider": "'gcp'",
        "account": project,
        "start_ms": c.time_ms(*c.need("usage_start_time")),
        "end_ms": c.time_ms(*c.need("usage_end_time")),
        "kind": kind(sku),
        "name": f"CASE WHEN ({kind(sku)}) = 'apart' THEN {sku} ELSE '' END",
        "amount": c.number(*c.need("usage.amount")),
        "unit_bytes": unit_bytes(c.text(*c.need("usage.unit"))),
        "cost": c.number(*c.need("cost")),
        "currency": c.text(*c.need("currency")),
        "resource": resource(project, c.first(*_RESOURCE)),
        "region": c.text("location.region"),
        "charge": f"CASE WHEN {cost_type} IN ('', 'regular') THEN 'usage' ELSE {cost_type} END",
        "final": "NULL",
    }


GCP = Format("Google Cloud BigQuery export", _form, _RESOURCE)
