# SPDX-License-Identifier: Apache-2.0
"""How long to wait after failures in a row. Pure but for chance."""

import random

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 15.0


class Backoff:
    """Twice as long each time, up to a limit, times a part of chance: so not all who failed at once come back at once.

    It begins again from the first wait after `sound_seconds` without a failure, or when it is told that all is well.
    """

    def __init__(
        self,
        first_seconds: float = FIRST_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
        *,
        chance: tuple[float, float] = (0.5, 1.0),
        sound_seconds: float = float("inf"),
    ) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._chance, self._sound = chance, sound_seconds
        self._next, self._over = first_seconds, float("-inf")

    def next_seconds(self, now: float) -> float:
        """Return the wait after a failure at `now` (monotonic seconds)."""
        if now - self._over > self._sound:
            self.well()
        wait = self._next * random.uniform(*self._chance)  # noqa: S311 - jitter, not a secret
        self._next = min(self._next * 2, self._longest)
        self._over = now + wait
        return wait

    def well(self) -> None:
        """Begin again."""
        self._next = self._first
