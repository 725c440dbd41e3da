# SPDX-License-Identifier: Apache-2.0
"""The hook's count beside the uplinks' own counters: what shows that packets bypass the hook, or a wrong uplink. Pure.

Not equal, ever: uplinks count frames (14 bytes more a packet on Ethernet), a super-packet once, and non-IP packets; the
hook sees traffic that stays on the node, and not what was refused before it. So a window of much traffic is judged
generously: half is enough. A wrong choice of uplinks is far from half:

    a device inside another (a port of a bridge or bond)   what comes in over it has the upper one's name: none is seen
    packets that bypass the hook                           less is seen than comes or goes
    the device that really leads out is missing            next to nothing passes the uplinks, but the hook sees much
"""

from dataclasses import dataclass

from schemas.ledger import LedgerRecord

# Below this a window says nothing: neighbour discovery, health checks.
ENOUGH_BYTES = 1_000_000
_LOW = 0.5
_NEXT_TO_NOTHING = 0.01


@dataclass(frozen=True, slots=True)
class WindowCoverage:
    """Bytes of one window. At the hook: `seen` in all, and `received` of it over an uplink. `sent`, `got`: uplinks'.

    `received` None: not known, from a collector before that.
    """

    seen: int
    received: int | None
    sent: int
    got: int

    def ratios(self) -> dict[str, float]:
        """Return what the hook saw of each way there was enough of, at most 1: "out" what was sent, "in" received."""
        found = {"out": (self.seen, self.sent)}
        if self.received is not None:
            found["in"] = (self.received, self.got)
        return {way: min(hook / own, 1.0) for way, (hook, own) in found.items() if own >= ENOUGH_BYTES}

    def problem(self) -> tuple[str, str] | None:
        """Return what is wrong and what to do, None if nothing is."""
        ratios = self.ratios()
        if ratios.get("in", 1.0) < _LOW and self.seen >= self.sent * _LOW:
            return (
                f"of {self.got:,} bytes that came in over the uplinks the hook saw {self.received:,}",
                "is one of them inside a bridge or a bond? --uplinks must name the upper device; see `uplinks`",
            )
        if min(ratios.values(), default=1.0) < _LOW:
            return (
                f"the uplinks sent {self.sent:,} bytes and got {self.got:,}, the hook saw {self.seen:,}",
                "do packets bypass it? see `network plugin`; raw and packet sockets bypass netfilter too; --hook tc",
            )
        if self.seen >= ENOUGH_BYTES and self.sent + self.got < self.seen * _NEXT_TO_NOTHING:
            return (
                f"the hook saw {self.seen:,} bytes, of which next to nothing passed the uplinks ({self.sent:,} bytes)",
                "fine if all of it stays on the node; else --uplinks must name the device that leads out",
            )
        return None


def of_window(entry: LedgerRecord) -> WindowCoverage:
    """Return the coverage of a window by its entry in the ledger."""
    return WindowCoverage(
        seen=entry.taken.bytes,
        received=entry.received.bytes if entry.received else None,
        sent=sum(uplink.tx_bytes for uplink in entry.uplinks.values()),
        got=sum(uplink.rx_bytes for uplink in entry.uplinks.values()),
    )
