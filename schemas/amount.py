# SPDX-License-Identifier: Apache-2.0
"""An amount of traffic, the unit in which the ledger is kept."""

import msgspec

from schemas.codec import Count


class Amount(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """IP-layer bytes as they leave the source node, packets (segments), and rows (flows) where there are any."""

    bytes: Count
    packets: Count
    rows: Count = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.bytes + other.bytes, self.packets + other.packets, self.rows + other.rows)


NOTHING = Amount(0, 0, 0)
