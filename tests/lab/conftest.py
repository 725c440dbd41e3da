# SPDX-License-Identifier: Apache-2.0
"""The network of the test run's own lab."""

from collections.abc import Iterator

import pytest

from lab.network import setup
from lab.plan import Plan


@pytest.fixture(scope="module")
def network_plan(plan: Plan) -> Iterator[Plan]:
    """The plan, with its network made."""
    setup.create(plan)
    yield plan
    setup.remove(plan.prefix)
