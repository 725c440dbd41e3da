# SPDX-License-Identifier: Apache-2.0
"""What a decoder says of bytes that are not the record it was promised."""


class DecodeError(ValueError):
    """A record that cannot be taken; `reason` is from a closed set, fit for a metric label.

    Reasons: `too_large`, `not_json`, `schema_mismatch` (a field missing, of a wrong type or out of range),
    `inconsistent` (each field is fine alone, but they contradict each other), `unsupported_version`, `implausible` (no
    node can have got there by then), `too_many_names` (no room for one more name); and of
    a whole batch of records `batch_too_large` (it would unpack to more than is read) and `batch_unreadable` (its
    checksum or its form is wrong).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
