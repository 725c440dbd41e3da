# SPDX-License-Identifier: Apache-2.0
"""Azure's cost and usage details, of an enterprise, a customer or a pay-as-you-go agreement. Pure.

Lines are by the day. The meters "Standard Inter-Availability Zone Data Transfer In" and "... Out" stand in price lists,
and Azure charges nothing for them (azure.microsoft.com/updates/update-on-interavailability-zone-data-transfer-pricing),
so a bill may well lack them. Source of the columns: learn.microsoft.com/azure/cost-management-billing/dataset-schema.
"""

from history.bill.formats.columns import Columns
from history.bill.formats.form import Format, unit_bytes

_DAY_MS = 86_400_000
_DATE = ("Date", "UsageDate", "UsageDateTime")
_QUANTITY = ("Quantity", "ConsumedQuantity", "UsageQuantity")
_RESOURCE = ("ResourceId", "InstanceId", "InstanceName")


def kind(meter: str) -> str:
    """Return SQL for what a line is, by SQL for its meter's name; NULL for what is not about transfer."""
    across = f"{meter} ILIKE '%inter-availability zone data transfer%'"
    return f"""CASE WHEN {across} AND {meter} ILIKE '%out' THEN 'out' WHEN {across} AND {meter} ILIKE '%in' THEN 'in'
        WHEN {meter} ILIKE '%data transfer%' OR {meter} ILIKE '%peering%' THEN 'apart' END"""


def resource(text: str) -> str:
    """Return SQL for what a resource is called: a machine of a scale set by the set, which is billed as a whole."""
    return f"regexp_replace(lower({text}), '(/virtualmachinescalesets/[^/]+)/virtualmachines/[^/]+$', '\\1')"


def _form(c: Columns) -> dict[str, str]:
    meter, unit = c.text(*c.need("MeterName", "Meter")), c.text(*c.need("UnitOfMeasure"))
    charge = c.text("ChargeType")
    # Such as "1 GB" or "100 GB".
    times = f"coalesce(TRY_CAST(nullif(regexp_extract({unit}, '^[0-9]+'), '') AS INTEGER), 1)"
    return {
        "provider": "'azure'",
        "account": c.text(*c.need("SubscriptionId", "SubscriptionGuid")),
        "start_ms": c.time_ms(*c.need(*_DATE)),
        "end_ms": f"{c.time_ms(*_DATE)} + {_DAY_MS}",
        "kind": kind(meter),
        "name": f"CASE WHEN ({kind(meter)}) = 'apart' THEN {meter} ELSE '' END",
        "amount": f"{c.number(*c.need(*_QUANTITY))} * {times}",
        "unit_bytes": unit_bytes(f"regexp_extract({unit}, '[A-Za-z]+')"),
        "cost": c.number(*c.need("CostInBillingCurrency", "Cost", "PreTaxCost")),
        "currency": c.text(*c.need("BillingCurrency", "BillingCurrencyCode", "Currency")),
        "resource": resource(c.text(*_RESOURCE)),
        "region": c.first("ResourceLocation", "MeterRegion"),
        "charge": f"CASE WHEN {charge} IN ('', 'Usage') THEN 'usage' ELSE {charge} END",
        "final": "NULL",
    }


AZURE = Format("Azure cost details", _form, _RESOURCE)
