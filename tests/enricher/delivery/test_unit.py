# SPDX-License-Identifier: Apache-2.0
"""How much a unit may hold before it goes out."""

import pytest
from msgspec.structs import replace

from enricher.delivery.outgoing.unit import Unit
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.metrics import GivenOut
from tests.support.enricher.build import chunk, row


@pytest.mark.parametrize("rows", [0, 1])
def test_a_chunk_of_many_addresses_fills_a_unit_however_few_its_rows_are(rows: int) -> None:
    addresses = [f"10.9.{n // 250}.{n % 250}" for n in range(500)]
    made = replace(chunk([row(*addresses[:2])] * rows), addresses=addresses)
    unit = Unit()
    unit.hold(GivenOut(made, join(made, resolve(made, Resolver(Index(), CidrMap([]))), 0, 0), waited=False))
    assert unit.is_full(500)
    assert not unit.is_full(501)
