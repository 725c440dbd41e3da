# SPDX-License-Identifier: Apache-2.0
"""Whether a service is ready: no reason stands against it. Pure but for the log.

A part of a service that is not ready yet says why, in words that an operator can act on, and takes the reason back when
it is over.
"""

import logging

log = logging.getLogger(__name__)


class Health:
    """The reasons why a service is not ready, one per part of it."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"start": "starting"}
        self._details: dict[str, str] = {}
        self._logged: set[str] = set()

    def starting(self, part: str, reason: str) -> None:
        """Say what `part` does first. Not logged: every start is so, and a refused one shall say one line only."""
        self._reasons[part] = reason

    def waiting(self, part: str, reason: str, detail: str = "") -> None:
        """Say that `part` is not ready and why; logged once when it begins or changes.

        `detail` changes all the time: it is shown behind the reason, and a change of it is not logged.
        """
        self._details[part] = f" ({detail})" if detail else ""
        if self._reasons.get(part) != reason:
            self._reasons[part] = reason
            self._logged.add(part)
            log.warning("not ready: %s", reason, extra={"part": part})

    def ready(self, part: str) -> None:
        """Take back what was said against `part`; logged if that was."""
        self._reasons.pop(part, None)
        self._details.pop(part, None)
        if part in self._logged:
            self._logged.remove(part)
            log.info("ready again: %s", part)

    @property
    def reasons(self) -> dict[str, str]:
        """What stands against being ready, by part; empty when ready."""
        return {part: reason + self._details.get(part, "") for part, reason in self._reasons.items()}
