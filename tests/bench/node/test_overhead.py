# SPDX-License-Identifier: Apache-2.0
"""What is said of the median of a few rounds."""

import random

from bench.node.overhead import interval


def test_interval_is_that_of_the_sign_test() -> None:
    """Of 15 the 4th and the 12th: outside are 2 x 576 of 32,768 outcomes (binomial, p = 1/2), the 5th would be 12 %."""
    assert interval([float(number) for number in range(15)]) == "3.000 to 11.000"
    assert interval([1.0] * 5) == "unknown (too few rounds)"


def test_interval_holds_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(1)
    held = 0
    for _ in range(2000):
        low, _, high = interval([chance.gauss(1, 0.1) for _ in range(15)]).partition(" to ")
        held += float(low) <= 1 <= float(high)
    assert held >= 0.95 * 2000
