# SPDX-License-Identifier: Apache-2.0
"""The section that the long form writes."""

from tests.torture.page import section
from tests.torture.scenario import Result


def test_each_kind_is_a_row_that_says_whether_it_held() -> None:
    held = Result("broker kill -9", 6, 60.0, [0.5, 2.0, 1.0], flows=2_800, repeated=3)
    failed = Result("kill -9 flowlog", 30, 120.0, [], fault="AssertionError: a|b")
    page = section([held, failed], seed=7).splitlines()
    assert page[2].startswith("`make torture SEED=7`, ")
    assert ", 3 minutes, on " in page[2]
    assert page[-2:] == [
        "| broker kill -9 | 6 | 2,800 | 3 | 1.0 s, 2.0 s | 60 s | held |",
        "| kill -9 flowlog | 30 | 0 | 0 | - | 120 s | **failed**: AssertionError: a/b |",
    ]
