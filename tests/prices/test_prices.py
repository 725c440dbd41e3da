# SPDX-License-Identifier: Apache-2.0
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Refusal
from prices.book import Price, Side, money, per_month, subunits_per_byte
from prices.file import SHIPPED, PriceFileError, load_prices, parse_prices, recognise, shipped
from schemas.flow import SCOPES, Scope

TERABYTE, TEBIBYTE = 10**12, 2**40

RIGHT = """
title = "Example"
currency = "USD"
unit = "GB"
as_of = 2026-11-01

[[price]]
scope = "cross_zone"
source_name = "alb-*"
source = 0
destination = 0
url = "https://example.com/alb"

[[price]]
scope = "cross_zone"
source = 0.01
destination = 0.002
url = "https://example.com/prices"
"""


@pytest.mark.parametrize(
    ("name", "size", "sender", "receiver"),
    [
        pytest.param("aws", TERABYTE, "10", "10", id="aws: both ends, per 10^9"),
        pytest.param("aws", TEBIBYTE, "10.99511627776", "10.99511627776", id="aws: 2^40 bytes are more than 1,000 GB"),
        pytest.param("gcp", TEBIBYTE, "10.24", "0", id="gcp: the sender alone, per 2^30"),
        pytest.param("gcp", TERABYTE, "9.31322574615478515625", "0", id="gcp: 10^12 bytes are 931 GiB"),
        pytest.param("azure", TERABYTE, "0", "0", id="azure: free"),
    ],
)
def test_cross_zone_prices(name: str, size: int, sender: str, receiver: str) -> None:
    price = shipped(name).find("cross_zone")
    assert price is not None
    assert money(size * subunits_per_byte(price.source, price.unit)) == Decimal(sender)
    assert money(size * subunits_per_byte(price.destination, price.unit)) == Decimal(receiver)
    assert money(size * price.rate) == Decimal(sender) + Decimal(receiver)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("scope", SCOPES)
def test_each_shipped_file_prices_what_it_can_and_nothing_else(name: str, scope: Scope) -> None:
    price = shipped(name).find(scope)
    if scope in ("same_node", "same_zone"):
        assert price is not None
        assert price.total == 0
    else:
        assert (price is not None) == (scope == "cross_zone"), "a scope without one list price must have none"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_prices_say_where_they_come_from(name: str) -> None:
    book = shipped(name)
    assert book.currency == "USD"
    assert book.as_of.year >= 2026
    assert all(price.url.startswith("https://") and price.note for price in book.prices)


@pytest.mark.parametrize(
    ("zones", "name"),
    [
        (["eu-west-1a", "eu-west-1b", "us-gov-west-1a"], "aws"),
        (["europe-west1-b", "northamerica-northeast1-a"], "gcp"),
        (["westeurope-1", "eastus2-3"], "azure"),
        (["eu-west-1a", "europe-west1-b"], None),
        (["eu-west-1a", "rack-7"], None),
        (["lab-1a"], None),
        (["zone-1"], None),
        ([], None),
    ],
)
def test_a_cloud_is_recognised_only_if_every_zone_is_named_as_its_own(zones: list[str], name: str | None) -> None:
    book = recognise(zones)
    assert (book and book.name) == name


def test_the_first_price_that_matches_applies() -> None:
    book = parse_prices(RIGHT.encode(), "mine.toml")
    free, general = book.prices
    assert book.find("cross_zone", Side("", "alb-public")) is free
    assert book.find("cross_zone", Side("", "orders-db")) is general
    assert book.find("cross_zone", Side(), Side("", "alb-public")) is general
    assert book.find("cross_region") is None
    assert general.billed == "sender and receiver"
    assert free.billed == "nobody"


def test_regions() -> None:
    text = RIGHT.replace('source_name = "alb-*"', 'source_region = "ap-*"\ndestination_region = "ap-*"')
    book = parse_prices(text.encode(), "mine.toml")
    assert book.find("cross_zone", Side("ap-south-1"), Side("ap-south-1")) is book.prices[0]
    assert book.find("cross_zone", Side("eu-west-1"), Side("eu-west-1")) is book.prices[1]
    assert book.find("cross_zone") is book.prices[1], "an unknown region is not one of those named"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("source = 0.01", "source = -0.01", "m:16: price 2: source: -0.01: expected a number from 0 to 1000"),
        ("source = 0.01", 'source = "0.01"', "m:16: price 2: source: '0.01': expected a number"),
        ("source = 0.01", "source = true", "m:16: price 2: source: True: expected a number"),
        ("source = 0.01", "source = nan", "m:16: price 2: source: NaN: expected a number"),
        ("source = 0.01", "source = 0.0000001", "at most 6 decimals"),
        ("destination = 0.002\n", "", "m:14: price 2: destination: is missing: expected a number"),
        ('url = "https://example.com/prices"', 'url = "a friend"', "m:18: price 2: url: 'a friend': expected the"),
        ('unit = "GB"', 'unit = "gigabyte"', "m:4: unit: 'gigabyte': expected one of GB, GiB"),
        ('currency = "USD"', 'currency = "dollars"', "m:3: currency: 'dollars': expected three capital letters"),
        ("as_of = 2026-11-01", 'as_of = "last year"', "m:5: as_of: 'last year': expected a date without quotes"),
        ("as_of = 2026-11-01\n", "", "as_of: is missing: expected a date"),
        ("source = 0.01", "sorce = 0.01", "m:16: price 2: sorce: no such name here"),
        ('source_name = "alb-*"\n', "", "m:14: price 2: scope: never applies: price 1 stands first and covers it"),
        (
            "source = 0.01",
            'source_name = "alb-1"\nsource = 0.01',
            "m:15: price 2: scope: never applies: price 1 stands first",
        ),
        ('scope = "cross_zone"', 'scope = "external"', "price: no price of scope cross_zone"),
        ('scope = "cross_zone"', 'scope = "unknown"', "unknown traffic has no price"),
        ('title = "Example"', "title = ", "m: not TOML: "),
        ('unit = "GB"', 'unit = "GB"\nzone_pattern = "("', "m:5: zone_pattern: '(': no regular expression"),
        ('unit = "GB"', 'unit = "GB"\nzone_pattern = "a+"', "m:5: zone_pattern: 'a+': has no group (?P<region>...)"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, problem: str) -> None:
    assert old in RIGHT
    with pytest.raises(PriceFileError) as caught:
        parse_prices(RIGHT.replace(old, new).encode(), "m")
    assert any(problem in line for line in caught.value.problems), caught.value.problems
    assert all("\n" not in line for line in caught.value.problems)


def test_all_errors_are_said_at_once() -> None:
    text = RIGHT.replace("0.01", "-1").replace('"GB"', '"MB"').replace("0.002", "9999")
    with pytest.raises(PriceFileError) as caught:
        parse_prices(text.encode(), "m")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"price = 3", b"[price]\nscope='cross_zone'", b"[[price]]"])
def test_rubbish_is_refused(content: bytes) -> None:
    with pytest.raises(PriceFileError):
        parse_prices(content, "m")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RIGHT)
    assert load_prices(str(path)).title == "Example"
    path.write_text(RIGHT.replace('"GB"', '"MB"').replace("0.01", "-1"))
    with pytest.raises(Refusal, match=r"mine.toml:4: unit.*and 1 more: zonemeter prices check"):
        load_prices(str(path))
    with pytest.raises(Refusal, match="No such file or directory; expected aws, azure, gcp or a file"):
        load_prices(str(tmp_path / "none.toml"))


def test_a_month_has_730_hours() -> None:
    assert per_month(1000, 3_600_000) == 730_000
    assert per_month(1000, 24 * 3_600_000) == 30_416
    assert per_month(1000, 0) == 0


@given(st.lists(st.integers(0, 2**53)), st.integers(0, 10**6), st.sampled_from(["GB", "GiB"]))
def test_sums_are_exact_in_any_order(sizes: list[int], millionths: int, unit: str) -> None:
    rate = subunits_per_byte(Decimal(millionths).scaleb(-6), unit)
    assert sum(size * rate for size in sizes) == sum(sizes) * rate
    assert rate * {"GB": 10**9, "GiB": 2**30}[unit] == millionths * 10**30


ANYWHERE = (
    RIGHT
    + """
[[price]]
scope = "external"
source = 0.09
destination = 0.01
url = "https://example.com/internet"

[[price]]
scope = "cross_region"
source_region = "*"
source = 0.02
destination = 0
url = "https://example.com/regions"
"""
)


@pytest.mark.parametrize(
    ("scope", "source", "destination", "billed"),
    [
        pytest.param("cross_region", Side("eu-1"), Side(), ("0.02", "0"), id="any known region"),
        pytest.param("cross_region", Side(), Side("eu-1"), None, id="an unknown region is not any region"),
        pytest.param("external", Side("eu-1"), Side(external=True), ("0.09", "0"), id="out: the sender is ours"),
        pytest.param("external", Side(external=True), Side("eu-1"), ("0", "0.01"), id="in: the receiver is ours"),
        pytest.param("external", Side(external=True), Side(external=True), ("0", "0"), id="neither is ours"),
    ],
)
def test_only_our_own_known_sides_are_billed(
    scope: Scope, source: Side, destination: Side, billed: tuple[str, str] | None
) -> None:
    price = parse_prices(ANYWHERE.encode(), "mine").find(scope, source, destination)
    assert (price and (price.source, price.destination)) == (billed and tuple(map(Decimal, billed)))


BY_PLACE = RIGHT.replace('source_name = "alb-*"', 'source_zone = "eu-west-1a"\ndestination_zone = "eu-west-1[bc]"')


@pytest.mark.parametrize(
    ("source", "destination", "number"),
    [("eu-west-1a", "eu-west-1b", 0), ("eu-west-1b", "eu-west-1a", 1), ("eu-west-1a", "eu-west-1d", 1), ("", "", 1)],
)
def test_a_pair_of_zones_has_a_price_of_its_own_each_way(source: str, destination: str, number: int) -> None:
    book = parse_prices(BY_PLACE.encode(), "mine")
    assert book.find("cross_zone", Side(zone=source), Side(zone=destination)) is book.prices[number]


TIERED = (
    RIGHT
    + """
[[price]]
scope = "external"
source_name = "vpce-*"
source = 0.02
destination = 0
url = "https://example.com/endpoints"

[[price]]
scope = "external"
source = [0.05, 0.09]
destination = [0, 0.001]
url = "https://example.com/internet"
"""
)


@given(
    st.lists(st.sampled_from([None, "*", "a", "b", "a*", "?", "[ab]", "ab"]), min_size=4, max_size=4),
    st.sampled_from(["", "a", "b", "ab", "abc", "*"]),
    st.sampled_from(["", "a", "ab"]),
)
def test_what_a_price_covers_it_meets_itself(globs: list[str | None], zone: str, name: str) -> None:
    first, later = (
        Price("cross_zone", Decimal(1), Decimal(1), "x", "GB", source_zone=of_zone, source_name=of_name)
        for of_zone, of_name in (globs[:2], globs[2:])
    )
    side = Side(zone=zone, name=name)
    if first.covers(later) and later.matches("cross_zone", side, Side()):
        assert first.matches("cross_zone", side, Side())


def test_a_price_by_tier_is_a_range_and_never_one_number() -> None:
    book = parse_prices(TIERED.encode(), "mine")
    out = book.match("external", Side("eu-1"), Side(external=True))
    assert out is not None
    assert (out.source, out.highest.source) == (Decimal("0.05"), Decimal("0.09"))
    assert out.destination == out.highest.destination == 0, "the far side is not on this bill"
    assert (out.is_range, out.highest.is_range, out.billed) == (True, False, "sender")
    assert book.find("external", Side("eu-1"), Side(external=True)) is None
    both = book.match("external", Side(external=True), Side(external=True))
    assert both is not None
    assert not both.is_range
    named = book.find("external", Side("", "vpce-logs"), Side(external=True))
    assert named is not None, "what stands first and is one number counts"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[0.05, 0.09]", "[0.09, 0.05]", "m:29: price 4: source: [0.09, 0.05]: expected [LOWEST, HIGHEST], the lowest"),
        ("[0.05, 0.09]", "[0.05, 0.05]", "expected [LOWEST, HIGHEST], the lowest first"),
        ("[0.05, 0.09]", "[0.05]", "source: [0.05]: expected [LOWEST, HIGHEST], the prices of the cheapest and"),
        ("[0.05, 0.09]", '[0.05, "0.09"]', "source: '0.09': expected a number from 0 to 1000 with at most"),
        ("[0.05, 0.09]", "[0.05, 0.0900001]", "expected a number from 0 to 1000 with at most 6 decimals"),
        ("source = 0.01", "source = [0.01, 0.02]", "m:15: price 2: scope: a range is for cross_region or external: no"),
    ],
)
def test_what_is_wrong_with_a_range_is_said_with_its_place(old: str, new: str, problem: str) -> None:
    with pytest.raises(PriceFileError) as caught:
        parse_prices(TIERED.replace(old, new).encode(), "m")
    assert any(problem in line for line in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("scope", "source", "destination", "price"),
    [
        ("cross_region", Side("us-east-1"), Side("us-east-2"), ("0.01", None)),
        ("cross_region", Side("us-east-2"), Side("us-east-1"), ("0.01", None)),
        ("cross_region", Side("us-east-1"), Side("ap-south-1"), ("0.02", None)),
        ("cross_region", Side("us-gov-east-1"), Side("us-gov-west-1"), None),
        ("cross_region", Side("us-east-2"), Side("us-west-2"), None),
        ("external", Side("us-west-2"), Side(external=True), ("0.05", "0.09")),
        ("external", Side("eu-north-1"), Side(external=True), ("0.05", "0.09")),
        ("external", Side("us-gov-west-1"), Side(external=True), None),
        ("external", Side("ap-south-1"), Side(external=True), None),
        ("external", Side(), Side(external=True), None),
        ("external", Side(external=True), Side("ap-south-1"), ("0", None)),
    ],
)
def test_aws_prices_only_what_a_source_says(
    scope: Scope, source: Side, destination: Side, price: tuple[str, str | None] | None
) -> None:
    found = shipped("aws").match(scope, source, destination)
    highest = None if found is None else found.source_highest
    assert (found and (str(found.source), highest and str(highest))) == price
    assert found is None or found.highest.destination == 0, "in is free, between regions and from the internet"


def test_a_file_of_many_prices_or_errors_is_refused_without_comparing_them_all() -> None:
    head, prices = RIGHT.split("[[price]]", 1)
    with pytest.raises(PriceFileError, match=r"1,002 prices; expected .* at most 1,000"):
        parse_prices((head + ("[[price]]" + prices) * 501).encode(), "file")
    names = "".join(f"x{number} = 1\n" for number in range(1000))
    with pytest.raises(PriceFileError) as caught:
        parse_prices((names + RIGHT).encode(), "file")
    assert len(caught.value.problems) == 100
