# SPDX-License-Identifier: Apache-2.0
"""docs/prices.md says what the shipped files say, and its example is one that would be taken."""

import re

import pytest

from prices.book import Side
from prices.file import SHIPPED, parse_prices, shipped
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs/prices.md").read_text()


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
    [example] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    book = parse_prices(example.encode(), "example")
    assert book.find("cross_zone", Side("eu-west-1", "alb-public")) is book.prices[0]
    assert book.find("cross_zone", Side("ap-south-1", "")) is book.prices[1]
    assert book.find("cross_zone", Side("eu-west-1", "")) is book.prices[2]
