# SPDX-License-Identifier: Apache-2.0
import io

import msgspec
from rich.console import Console

from replay.summary import Pair, Summariser, Summary
from replay.summary_view import print_summary
from schemas.flow import Cloud, Endpoint, Kubernetes, Named, Workload, decode_flow, decode_head
from tests.schemas.test_documents import EXAMPLE_FLOW

API = Endpoint(
    kind="pod",
    address="10.42.1.17",
    k8s=Kubernetes(namespace=Named("shop"), workload=Workload("Deployment", "api")),
    cloud=Cloud(availability_zone="eu-west-1a"),
)
INTERNET = Endpoint(kind="external", address="11.0.0.10")
NOBODY = Endpoint(kind="unknown", address="10.9.9.9", reason="vpc_unmapped")


def summary_of(*changes: dict[str, object]) -> Summary:
    summary, summariser = Summary(), Summariser()
    for change in changes:
        flow = msgspec.structs.replace(decode_flow(EXAMPLE_FLOW), **change)
        summariser.add(summary, decode_head(msgspec.json.encode(flow)))
    return summary


def test_each_scope_in_its_place() -> None:
    summary = summary_of(
        {"bytes": 1000},
        {"bytes": 200, "scope": "external", "source": API, "destination": INTERNET},
        {"bytes": 30, "scope": "unknown", "destination": NOBODY},
        {"bytes": 4, "encapsulation": "vxlan"},
    )
    assert summary.bytes == 1230
    assert summary.scopes == {"cross_zone": 1000, "external": 200, "unknown": 30}
    assert summary.zones == {("eu-west-1a", "eu-west-1b"): 1000, ("eu-west-1a", "external"): 200}
    assert summary.unknown == {"vpc_unmapped": 30}
    assert summary.cross_zone_pairs == {
        Pair("shop/Deployment/api", "shop/StatefulSet/postgres", "eu-west-1a", "eu-west-1b"): 1000
    }
    assert summary.observers == {"node-a1"}
    assert summary.flows == 3


def test_the_table_shows_rates_and_fits_100_columns() -> None:
    out = io.StringIO()
    print_summary(Console(file=out, width=100), summary_of({"bytes": 25_000_000}), seconds=10)
    text = out.getvalue()
    assert "2.50" in text
    assert "shop/Deployment/api" in text
    assert "100 % of in-region" in text
    assert max(map(len, text.splitlines())) <= 100
