# SPDX-License-Identifier: Apache-2.0
"""docs/prices.md says what the shipped files say, and its example is one that would be taken."""

import re
from decimal import Decimal

import pytest

from prices.book import Side
from prices.file import SHIPPED, parse_prices, shipped
from tests.docs.printed.commands import ROOT

PAGE = (ROOT / "docs/prices.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_table_says_what_the_file_says(name: str) -> None:
    book = shipped(name)
    price = book.find("cross_zone")
    assert price is not None
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    _, _, cloud, said, billed, as_of, source, _ = (cell.strip() for cell in row.split("|"))
    assert (cloud, billed, as_of) == (book.title, price.billed, str(book.as_of))
    assert price.url in source
    assert f"{price.total} USD per {book.unit}" in said.replace("0.02 per", "0.02 USD per") or price.total == 0


def test_the_example_is_a_price_file() -> None:
    book = parse_prices(EXAMPLES[0].encode(), "example")
    balancer, pod = Side("eu-west-1", "alb/public"), Side("eu-west-1")
    assert book.find("cross_zone", balancer, pod) is book.prices[0]
    assert book.find("cross_zone", pod, balancer) is book.prices[1]
    assert book.find("cross_zone", Side("ap-south-1", "")) is book.prices[2]
    assert book.find("cross_zone", pod, pod) is book.prices[3]


def test_the_other_examples_go_into_it() -> None:
    """And say what the page says: the first that matches counts, which those of the same scope before it would be."""
    _, places, gateways = EXAMPLES
    book = parse_prices(
        (
            EXAMPLES[0].split("[[price]]")[0] + places + gateways + "[[price]]" + EXAMPLES[0].split("[[price]]")[-1]
        ).encode(),
        "example",
    )
    between = book.find("cross_region", Side("eu-west-1"), Side("us-east-1"))
    assert between is not None
    assert (str(between.source), between.billed) == ("0.02", "sender")
    assert book.find("cross_region", Side("us-east-1"), Side("eu-west-1")) is None, "one way"
    racks = [Side(zone="rack-1"), Side(zone="rack-2")]
    ways = [book.find("cross_zone", *each) for each in (racks, racks[::-1])]
    assert [price and price.total for price in ways] == [0, Decimal("0.02")]
    internet = Side(external=True)
    store = Side("", "aws/S3/eu-west-1", external=True)
    for ends in ((Side("eu-west-1"), store), (store, Side("eu-west-1"))):
        stored = book.find("external", *ends)
        assert stored is not None
        assert stored.total == 0
    out, into = book.match("external", Side("eu-west-1"), internet), book.match("external", internet, Side("eu-west-1"))
    assert out is not None
    assert into is not None
    assert (out.source, out.source_highest, into.destination) == tuple(map(Decimal, ("0.095", "0.135", "0.045")))
    ends = Side("eu-west-1"), Side("", "vpce-logs")
    ways = [book.find("same_zone", *each) for each in (ends, ends[::-1])]
    assert [price and price.billed for price in ways] == ["sender", "receiver"]
