# SPDX-License-Identifier: Apache-2.0
import dataclasses

import msgspec
import pytest

from common import page
from history.model.summary import Pair, Summary
from history.text.summary import summary_lines
from prices.file import shipped
from schemas.flow import Cloud, Endpoint, Kubernetes, Named, Observer, Workload, decode_flow
from tests.schemas.test_documents import EXAMPLE_FLOW
from tests.support.history.rows import summed

API = Endpoint(
    kind="pod",
    address="10.42.1.17",
    k8s=Kubernetes(namespace=Named("shop"), workload=Workload("Deployment", "api")),
    cloud=Cloud(availability_zone="eu-west-1a"),
)
INTERNET = Endpoint(kind="external", address="11.0.0.10")
NOBODY = Endpoint(kind="unknown", address="10.9.9.9", reason="vpc_unmapped")


def summary_of(*changes: dict[str, object]) -> Summary:
    return summed(msgspec.structs.replace(decode_flow(EXAMPLE_FLOW), **change) for change in changes)


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


def test_why_traffic_is_unknown_the_side_says_that_lacks_its_zone() -> None:
    late = Endpoint(kind="unknown", address="fe80::1", reason="late_index", cloud=API.cloud)
    group = Endpoint(kind="unknown", address="ff02::2", reason="multicast")
    summary = summary_of(
        {"bytes": 56, "scope": "unknown", "source": late, "destination": group},
        {"bytes": 30, "scope": "unknown", "source": NOBODY, "destination": late},
        {"bytes": 4, "scope": "unknown", "source": msgspec.structs.replace(API, cloud=msgspec.UNSET)},
        {"bytes": 2, "scope": "unknown", "source": NOBODY, "direction": "relay", "observer": Observer("node-c")},
    )
    assert summary.unknown == {"multicast": 56, "vpc_unmapped": 30, "zone_missing": 6}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("aws/S3/eu-west-1", "external/aws/S3/eu-west-1"),
        ("203.0.113.0/24", "external"),  # the prefix that stands for folded addresses
        ("0.0.0.0/0", "external"),
        ("10.0.0.1/8", "external"),
        (None, "external"),
    ],
)
def test_what_is_external_goes_by_its_name(name: str | None, label: str) -> None:
    outside = msgspec.structs.replace(INTERNET, name=msgspec.UNSET if name is None else name)
    summary = summary_of({"scope": "external", "source": API, "destination": outside})
    assert [traffic.destination.label for traffic in summary.traffic] == [label]


def test_the_table_shows_rates_and_fits_100_columns() -> None:
    lines = summary_lines(summary_of({"bytes": 25_000_000}), seconds=10, prices=shipped("aws"))
    text = "\n".join(lines)
    assert "2.50" in text
    assert " shop/Deployment/api   ->  shop/StatefulSet/postgres  a -> b  2.50      131" in lines
    assert "100 % of in-region" in text
    assert "at this rate $131 a month" in text  # 2.5 MB/s x 730 h = 6,570 GB, at 0.02 $
    assert_printable(lines)


@pytest.mark.parametrize(
    ("zones", "shown"),
    [
        pytest.param(3, "northamerica-northeast1-a  1.05  -  -         -", id="long names"),
        pytest.param(40, " 40 zones, too many to lay out here: zonemeter report lists them", id="many"),
    ],
)
def test_many_zones_and_long_names_do_not_make_it_wider(zones: int, shown: str) -> None:
    places = [f"northamerica-northeast1-{'abc'[number] if zones == 3 else number}" for number in range(zones)]
    ends = [place_of(place, f"{place}-{'with-a-long-name-' * 4}") for place in places]
    changes: list[dict[str, object]] = [{"source": end, "destination": ends[0]} for end in ends]
    lines = summary_lines(summary_of(*changes), seconds=1)
    assert_printable(lines)
    assert any(line.strip().startswith(shown.strip()) for line in lines), lines


@pytest.mark.parametrize("columns", [80, 100])
def test_a_window_fits_the_terminal(columns: int) -> None:
    places = [place_of(f"lab-1{zone}", f"a-workload-with-a-long-name-{zone}" * 2) for zone in "abcd"]
    changes: list[dict[str, object]] = [
        {"source": one, "destination": two, "bytes": 123_456_789_012} for one in places for two in places
    ]
    changes += [{"scope": scope, "bytes": 5 * 10**9} for scope in ("same_zone", "same_node", "external", "unknown")]
    with page.laid_out(columns):
        lines = summary_lines(summary_of(*changes), 10, shipped("aws"), top=7)
    assert max(map(len, lines)) <= columns
    assert len([line for line in lines if " -> " in line]) == 7
    text = " ".join(" ".join(lines).split())
    assert "external 500.00 unknown 500.00" in text


def test_prices_of_ones_own_are_called_that_and_what_has_none_is_said() -> None:
    book = dataclasses.replace(
        shipped("aws"),
        name="mine.toml",
        currency="EUR",
        prices=tuple(
            dataclasses.replace(price, source_region="eu-*")
            for price in shipped("aws").prices
            if price.scope == "cross_zone"
        ),
    )
    nowhere = place_of("eu-west-1c", "nowhere")
    text = "\n".join(summary_lines(summary_of({"bytes": 25_000_000}, {"source": nowhere, "bytes": 10**6}), 10, book))
    assert "at this rate EUR 131 a month (AWS, prices of your own file, as of 2026-11-23, 730 h)" in " ".join(
        text.split()
    )
    assert "1.00 MB in this window has no price" in " ".join(text.split())
    assert "EUR/month" in text
    assert "$" not in text


def test_a_name_is_shown_as_it_is() -> None:
    """Names are out of records: what another library took for markup or a picture must not end or change the table."""
    hostile = Endpoint(kind="cidr", address="10.9.9.9", name="[/x] [red]:a:", cloud=Cloud(availability_zone="z"))
    lines = summary_lines(summary_of({"destination": hostile}), seconds=10)
    assert any("cidr/[/x] [red]:a:" in line for line in lines)


def place_of(zone: str, workload: str) -> Endpoint:
    names = Kubernetes(namespace=Named("shop"), workload=Workload("Deployment", workload))
    return Endpoint(kind="pod", address="10.42.1.17", k8s=names, cloud=Cloud(availability_zone=zone))


def assert_printable(lines: list[str]) -> None:
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line != line.rstrip()] == []
