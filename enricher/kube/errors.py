# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on the way to the Kubernetes API; the rest is in common/errors.py and schemas/errors.py.

KubeError          the API did not give what was asked for; waiting may help
  GoneError        what was asked for is too old (410), or not to be believed any more: only a new list helps
"""


class KubeError(Exception):
    """One line that names the API, the question and the answer.

    `status` is the HTTP status, None without one. `why` is one of a closed set, for metrics: the status, or `network`
    (no answer, or the connection broke off), `malformed` (text where JSON was due), `too_long` (a line beyond all
    bounds), `ended` (a watch over at once), `gone` (410), `silent` (nothing came), `restored` (versions went back).
    """

    def __init__(
        self, line: str, status: int | None = None, retry_after_seconds: float | None = None, why: str | None = None
    ) -> None:
        super().__init__(line)
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.why = why or ("network" if status is None else "gone" if status == 410 else str(status))


class GoneError(KubeError):
    """What was heard so far no longer leads to what is true now."""
