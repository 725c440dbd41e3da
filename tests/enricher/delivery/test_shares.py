# SPDX-License-Identifier: Apache-2.0
"""What the enricher gives each step of ending, where a silent Kafka makes each take all that it may."""

import pytest

from enricher.delivery.pipeline import Shares


@pytest.mark.parametrize("drain_seconds", [10, 13, 20, 28, 60, 600])
def test_what_ends_before_the_publisher_leaves_it_time(drain_seconds: float) -> None:
    finish, cancel, leave = Shares.of(drain_seconds)
    assert finish + cancel + leave + min(leave, 1) <= drain_seconds - 1
    assert finish <= 15
