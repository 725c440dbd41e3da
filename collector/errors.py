# SPDX-License-Identifier: Apache-2.0
"""Errors of the collector, all refusals: one line, exit status 2.

LoadError      the kernel did not take the programs or does not tell where its fields are
RecordError    a pinned record is of another version or was overwritten
"""

from common.errors import Refusal


class LoadError(Refusal):
    """What the loader could not do, in one line that says what and why."""


class RecordError(Refusal):
    """A pinned record that this version cannot read."""
