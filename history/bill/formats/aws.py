# SPDX-License-Identifier: Apache-2.0
"""AWS's Cost and Usage Report, 2.0 and legacy: columns, usage types, operations. Pure.

Two lines are written for a transfer across zones, one for each end: usage type `REGION-DataTransfer-Regional-Bytes`,
operations InterZone-Out and InterZone-In; a region's prefix is its billing code, us-east-1 often has none. Source:
docs.aws.amazon.com/cur/latest/userguide/cur-data-transfers-charges.html and table-dictionary-cur2.html.
"""

from history.bill.formats.columns import Columns
from history.bill.formats.form import Format

_REGIONAL, _XAZ_OUT, _XAZ_IN = "DataTransfer-Regional-Bytes", "DataTransfer-xAZ-Out-Bytes", "DataTransfer-xAZ-In-Bytes"
_APART = (
    *("VpcPeering-In-Bytes", "VpcPeering-Out-Bytes", "NatGateway-Bytes", "NatGateway-Prvd-Bytes", "VpcEndpoint-Bytes"),
    *("TransitGateway-Bytes", "AWS-In-Bytes", "AWS-Out-Bytes", "DataTransfer-In-Bytes", "DataTransfer-Out-Bytes"),
    *("DataProcessing-Bytes", "CloudFront-In-Bytes", "CloudFront-Out-Bytes"),
)
_REGION = ("product_region_code", "product/regionCode", "product_region", "product/region", "product.region")
_RESOURCE = ("line_item_resource_id", "lineItem/ResourceId")
_INVOICE = ("bill_invoice_id", "bill/InvoiceId")


def kind_and_name(usage: str, operation: str, unsaid: str = "'regional'") -> dict[str, str]:
    """Return what a line is, by SQL for its usage type and operation; `unsaid`: one without an operation."""
    apart = " ".join(f"WHEN ends_with({usage}, '{name}') THEN '{name}'" for name in _APART)
    is_apart = " OR ".join(f"ends_with({usage}, '{name}')" for name in _APART)
    regional = f"ends_with({usage}, '{_REGIONAL}')"
    return {
        "kind": f"""CASE
            WHEN {regional} AND {operation} = 'InterZone-Out' OR ends_with({usage}, '{_XAZ_OUT}') THEN 'out'
            WHEN {regional} AND {operation} = 'InterZone-In' OR ends_with({usage}, '{_XAZ_IN}') THEN 'in'
            WHEN {regional} AND {operation} = '' THEN {unsaid}
            WHEN {regional} THEN 'regional' WHEN {is_apart} THEN 'apart' END""",
        "name": f"""CASE WHEN {regional} AND {operation} NOT IN ('InterZone-Out', 'InterZone-In') THEN
            coalesce(nullif({operation}, ''), 'no operation') {apart} ELSE '' END""",
    }


def resource(text: str) -> str:
    """Return SQL for what a resource is called: an ARN ends with it."""
    return f"regexp_replace({text}, '^arn:.*[/:]', '')"


def _form(c: Columns) -> dict[str, str]:
    usage = c.text(*c.need("line_item_usage_type", "lineItem/UsageType"))
    operation = c.text(*c.need("line_item_operation", "lineItem/Operation"))
    kind = c.text(*c.need("line_item_line_item_type", "lineItem/LineItemType"))
    return {
        "provider": "'aws'",
        "account": c.text(*c.need("line_item_usage_account_id", "lineItem/UsageAccountId")),
        "start_ms": c.time_ms(*c.need("line_item_usage_start_date", "lineItem/UsageStartDate")),
        "end_ms": c.time_ms(*c.need("line_item_usage_end_date", "lineItem/UsageEndDate")),
        **kind_and_name(usage, operation),
        "amount": c.number(*c.need("line_item_usage_amount", "lineItem/UsageAmount")),
        "unit_bytes": "CAST(NULL AS BIGINT)",
        "cost": c.number(*c.need("line_item_unblended_cost", "lineItem/UnblendedCost")),
        "currency": c.text(*c.need("line_item_currency_code", "lineItem/CurrencyCode")),
        "resource": resource(c.text(*_RESOURCE)),
        "region": c.first(*_REGION),
        "charge": f"CASE WHEN {kind} = 'Usage' THEN 'usage' ELSE {kind} END",
        # Until a report is final, this is blank.
        "final": "NULL" if c.find(*_INVOICE) is None else f"{c.text(*_INVOICE)} <> ''",
    }


AWS = Format("AWS Cost and Usage Report", _form, _RESOURCE)
