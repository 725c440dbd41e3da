# SPDX-License-Identifier: Apache-2.0
"""Errors of the collector.

LoadError      the kernel did not take the programs or does not tell where its fields are; one line, exit 2
RecordError    a pinned record is of another version or was overwritten; exit 2
"""


class LoadError(Exception):
    """What the loader could not do, in one line that says what and why."""


class RecordError(Exception):
    """A pinned record that this version cannot read."""
