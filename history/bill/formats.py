# SPDX-License-Identifier: Apache-2.0
"""The bills that are understood, each by its columns, and the one form that is made of their lines. Pure.

    account, start_ms, end_ms, kind, name, amount, unit_bytes, cost, currency, resource, region, charge, final

`kind`: `out` and `in` are billed for crossing zones; `both` is, where the line does not say which way; `regional`
stands under the same meter and did not cross zones, or not by a private address; `apart` is other transfer. `name` says
which of the last two. `unit_bytes`: what one of `amount` is; NULL where a cloud's "GB" may be 10^9 bytes or 2^30.
`charge` is `usage`, or what else the line is, such as a credit. `final`: NULL where the bill does not say.

Sources: docs.aws.amazon.com/cur/latest/userguide/cur-data-transfers-charges.html (usage types), focus.finops.org,
cloud.google.com/billing/docs/how-to/export-data-bigquery-tables, learn.microsoft.com/azure/cost-management-billing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import Refusal
from history.bill.columns import Columns

FORM = (
    *("account", "start_ms", "end_ms", "kind", "name", "amount", "unit_bytes", "cost", "currency", "resource"),
    *("region", "charge", "final"),
)
CROSSING = ("out", "in", "both")
KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

# AWS's, behind the region's prefix, which us-east-1 often lacks. What comes first here is looked for first.
_REGIONAL, _XAZ_OUT, _XAZ_IN = "DataTransfer-Regional-Bytes", "DataTransfer-xAZ-Out-Bytes", "DataTransfer-xAZ-In-Bytes"
_APART = (
    *("VpcPeering-In-Bytes", "VpcPeering-Out-Bytes", "NatGateway-Bytes", "NatGateway-Prvd-Bytes", "VpcEndpoint-Bytes"),
    *("TransitGateway-Bytes", "AWS-In-Bytes", "AWS-Out-Bytes", "DataTransfer-In-Bytes", "DataTransfer-Out-Bytes"),
    *("DataProcessing-Bytes", "CloudFront-In-Bytes", "CloudFront-Out-Bytes"),
)


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of bill. `needs`: its columns, each by the names that it may have. `form`: SQL for each of `FORM`."""

    name: str
    provider: str
    needs: Sequence[tuple[str, ...]]
    form: Callable[[Columns], dict[str, str]]
    optional: Sequence[tuple[str, ...]] = ()

    def lacks(self, columns: Columns) -> list[str]:
        """Return the columns that it needs and that are not there, by their first names."""
        return [names[0] for names in self.needs if columns.find(*names) is None]


def recognise(columns: Columns, place: str) -> Format:
    """Return what kind of bill has these columns; raise `Refusal` that names what it lacks."""
    lacking = [(each, each.lacks(columns)) for each in FORMATS]
    for each, lacks in lacking:
        if not lacks:
            return each
    near, lacks = min(lacking, key=lambda pair: len(pair[1]) / len(pair[0].needs))
    if len(lacks) == len(near.needs):
        known = ", ".join(each.name for each in FORMATS)
        raise Refusal(f"{place}: not a bill that is known here: it has no column of {known}")
    raise Refusal(f"{place}: looks like {near.name}, and lacks {', '.join(lacks)}; export it with these columns")


def _aws(c: Columns) -> dict[str, str]:
    usage = c.text("line_item_usage_type", "lineItem/UsageType")
    operation = c.text("line_item_operation", "lineItem/Operation")
    kind = c.text("line_item_line_item_type", "lineItem/LineItemType")
    invoice = ("bill_invoice_id", "bill/InvoiceId")
    region = ("product_region_code", "product/regionCode", "product_region", "product/region", "product.region")
    return {
        "account": c.text("line_item_usage_account_id", "lineItem/UsageAccountId"),
        "start_ms": c.time_ms("line_item_usage_start_date", "lineItem/UsageStartDate"),
        "end_ms": c.time_ms("line_item_usage_end_date", "lineItem/UsageEndDate"),
        **_aws_kind(usage, operation, "'regional'"),
        "amount": c.number("line_item_usage_amount", "lineItem/UsageAmount"),
        "unit_bytes": "CAST(NULL AS BIGINT)",
        "cost": c.number("line_item_unblended_cost", "lineItem/UnblendedCost"),
        "currency": c.text("line_item_currency_code", "lineItem/CurrencyCode"),
        # An ARN ends with what the resource is called.
        "resource": f"regexp_replace({c.text('line_item_resource_id', 'lineItem/ResourceId')}, '^arn:.*[/:]', '')",
        "region": c.first(*region),
        "charge": f"CASE WHEN {kind} = 'Usage' THEN 'usage' ELSE {kind} END",
        "final": "NULL" if c.find(*invoice) is None else f"{c.text(*invoice)} <> ''",
    }


def _aws_kind(usage: str, operation: str, unsaid: str) -> dict[str, str]:
    """Return what kind of transfer a usage type and an operation are; `unsaid`: one with another operation."""
    apart = " ".join(f"WHEN ends_with({usage}, '{name}') THEN '{name}'" for name in _APART)
    is_apart = " OR ".join(f"ends_with({usage}, '{name}')" for name in _APART)
    regional = f"ends_with({usage}, '{_REGIONAL}')"
    return {
        "kind": f"""CASE
            WHEN {regional} AND {operation} = 'InterZone-Out' OR ends_with({usage}, '{_XAZ_OUT}') THEN 'out'
            WHEN {regional} AND {operation} = 'InterZone-In' OR ends_with({usage}, '{_XAZ_IN}') THEN 'in'
            WHEN {regional} THEN {unsaid} WHEN {is_apart} THEN 'apart' END""",
        "name": f"""CASE WHEN {regional} AND {operation} NOT IN ('InterZone-Out', 'InterZone-In') THEN
            coalesce(nullif({operation}, ''), 'no operation') {apart} ELSE '' END""",
    }


AWS = Format(
    "AWS Cost and Usage Report",
    "aws",
    (
        ("line_item_usage_type", "lineItem/UsageType"),
        ("line_item_operation", "lineItem/Operation"),
        ("line_item_line_item_type", "lineItem/LineItemType"),
        ("line_item_usage_start_date", "lineItem/UsageStartDate"),
        ("line_item_usage_end_date", "lineItem/UsageEndDate"),
        ("line_item_usage_amount", "lineItem/UsageAmount"),
        ("line_item_unblended_cost", "lineItem/UnblendedCost"),
        ("line_item_currency_code", "lineItem/CurrencyCode"),
        ("line_item_usage_account_id", "lineItem/UsageAccountId"),
    ),
    _aws,
    (("line_item_resource_id", "lineItem/ResourceId"),),
)
FORMATS: tuple[Format, ...] = (AWS,)
