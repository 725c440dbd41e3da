# SPDX-License-Identifier: Apache-2.0
"""How much a page shows. Pure."""

from typing import NamedTuple


class Bounds(NamedTuple):
    """How many of a kind a page shows at most; what is left out is counted there."""

    rows: int = 500
    findings: int = 60
    bands: int = 14
    zones: int = 16
    changes: int = 100
    listed: int = 50

    def halved(self) -> "Bounds":
        """Return half of each, but at least one."""
        return Bounds(*(max(each // 2, 1) for each in self))
