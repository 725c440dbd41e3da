# SPDX-License-Identifier: Apache-2.0
"""FOCUS, the form that all clouds export to, 1.0 and later (focus.finops.org). Pure.

It has no column for what a transfer was between. AWS adds x_UsageType and x_Operation; without an operation its lines
are regional and not separable: public addresses and peering are among them. Google's and Azure's lines show in the
meter or the description of the SKU.
"""

from history.bill.formats import aws, azure, gcp
from history.bill.formats.columns import Columns
from history.bill.formats.form import Format, unit_bytes

_METER = ("SkuMeter", "x_SkuMeterName", "x_SkuDescription", "ChargeDescription")
_PROVIDER = ("ServiceProviderName", "ProviderName", "HostProviderName", "PublisherName", "InvoiceIssuerName")


def _form(c: Columns) -> dict[str, str]:
    c.need("x_UsageType", *_METER)  # one of them says between what a transfer was
    usage, operation = c.first("x_UsageType", "SkuMeter"), c.text("x_Operation")
    meter, account = c.first(*_METER), c.text(*c.need("SubAccountId"))
    of_aws = aws.kind_and_name(usage, operation, "'both'")
    across = f"coalesce({of_aws['kind']}, {azure.kind(meter)}, {gcp.kind(meter)})"
    provider, resource = c.first(*c.need(*_PROVIDER)), c.text("ResourceId")
    name = f"""CASE WHEN {provider} ILIKE '%google%' THEN 'gcp' WHEN {provider} ILIKE '%microsoft%'
        OR {provider} ILIKE '%azure%' THEN 'azure' ELSE 'aws' END"""
    category, correction = c.text(*c.need("ChargeCategory")), c.text("ChargeClass")
    return {
        "provider": name,
        "account": account,
        "start_ms": c.time_ms(*c.need("ChargePeriodStart")),
        "end_ms": c.time_ms(*c.need("ChargePeriodEnd")),
        "kind": across,
        "name": f"CASE WHEN ({of_aws['kind']}) IS NOT NULL THEN {of_aws['name']} WHEN ({across}) = 'apart' "
        f"THEN {meter} ELSE '' END",
        "amount": c.number(*c.need("ConsumedQuantity")),
        "unit_bytes": unit_bytes(c.text(*c.need("ConsumedUnit"))),
        "cost": c.number(*c.need("BilledCost")),
        "currency": c.text(*c.need("BillingCurrency")),
        "resource": f"CASE {name} WHEN 'gcp' THEN {gcp.resource(account, resource)} WHEN 'azure' THEN "
        f"{azure.resource(resource)} ELSE {aws.resource(resource)} END",
        "region": c.first("RegionId", "Region"),
        "charge": f"CASE WHEN {correction} <> '' THEN {correction} WHEN {category} = 'Usage' THEN 'usage' "
        f"ELSE {category} END",
        "final": "NULL" if c.find("InvoiceId") is None else f"{c.text('InvoiceId')} <> ''",
    }


FOCUS = Format("FOCUS", _form, ("ResourceId",))
