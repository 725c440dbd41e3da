# SPDX-License-Identifier: Apache-2.0
"""Waits after failures: longer and longer, never the same for all, short again once all is well."""

from common.service.backoff import FIRST_SECONDS, LONGEST_SECONDS, Backoff


def test_waits_double_to_the_longest_each_times_a_part_of_chance() -> None:
    backoff = Backoff()
    waits = [backoff.next_seconds(0.0) for _ in range(8)]
    for number, wait in enumerate(waits):
        whole = min(FIRST_SECONDS * 2**number, LONGEST_SECONDS)
        assert whole / 2 <= wait <= whole
    assert len(set(waits)) == len(waits)


def test_it_begins_again_when_told_that_all_is_well() -> None:
    backoff = Backoff(1.0, 100.0, chance=(1.0, 1.0))
    assert [backoff.next_seconds(0.0) for _ in range(3)] == [1.0, 2.0, 4.0]
    backoff.well()
    assert backoff.next_seconds(0.0) == 1.0


def test_it_begins_again_after_so_long_without_a_failure_and_no_sooner() -> None:
    backoff = Backoff(1.0, 100.0, chance=(1.0, 1.0), sound_seconds=60.0)
    assert backoff.next_seconds(100.0) == 1.0
    assert backoff.next_seconds(101.0 + 60.0) == 2.0
    assert backoff.next_seconds(163.0 + 60.5) == 1.0
