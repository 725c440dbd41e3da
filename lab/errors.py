# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with the lab."""

from common.errors import Refusal


class LabError(Refusal):
    """The lab cannot be made, read or removed; the message is one line: what, where and what to do."""
