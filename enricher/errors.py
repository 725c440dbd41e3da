# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on the way to the Kubernetes API; the rest is in common/errors.py and schemas/errors.py.

KubeError          the API did not give what was asked for; waiting may help
  GoneError        what was asked for is too old (410): only a new list helps
"""


class KubeError(Exception):
    """One line that names the API, the question and the answer. `status` is the HTTP status, None without one."""

    def __init__(self, line: str, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class GoneError(KubeError):
    """A resourceVersion or a continue token that the API no longer keeps."""
