# SPDX-License-Identifier: Apache-2.0
"""What the demo's two acts come to: measured, forecast from act one, and measured again. Pure.

Only windows that lie wholly within an act count, and of act one none in which connections were still being opened.
"""

from dataclasses import dataclass, field

from common.amounts import counted
from history.read.live import LiveWindow
from prices.book import PriceBook, money, per_month


@dataclass
class Act:
    """Windows of one act. `crossing`: bytes across zones in all of them."""

    windows: int = 0
    crossing: int = 0

    def take(self, window: LiveWindow) -> None:
        """Add one window."""
        self.windows += 1
        self.crossing += window.summary.scopes.get("cross_zone", 0)


@dataclass
class Story:
    """Sorts windows into acts by their time and compares the acts.

    `begin_ms`: when traffic was started; `change_ms`: when the scene was about to be changed; `changed_ms`: when the
    changed scene's traffic was started. None: not yet. `left`: which part of what crosses zones a simulation left.
    """

    prices: PriceBook
    window_ms: int
    acts: tuple[Act, Act] = field(default_factory=lambda: (Act(), Act()))
    begin_ms: int = 0
    change_ms: int | None = None
    changed_ms: int | None = None
    left: float = 1.0

    def act_of(self, window: LiveWindow) -> str:
        """Return where a window belongs, for its title."""
        if self.changed_ms is not None and window.start_ms >= self.changed_ms:
            return "act 2"
        if self.change_ms is not None and window.end_ms > self.change_ms:
            return "between the acts"
        return "act 1"

    def take(self, window: LiveWindow) -> None:
        """Add a window to its act, if it lies in one wholly."""
        act = self.act_of(window)
        if act == "act 1" and window.start_ms >= self.begin_ms:
            self.acts[0].take(window)
        elif act == "act 2":
            self.acts[1].take(window)

    def lines(self) -> list[str]:
        """Return what was saved beside what was forecast; nothing if an act had no whole window."""
        one, two = self.acts
        if one.windows and self.changed_ms is None:
            return ["act two did not begin: nothing to compare"]
        if not one.windows or not two.windows:
            return ["an act had no whole window of 10 s: nothing to compare"] if one.windows else []
        before, after = self._monthly(one.crossing, one.windows), self._monthly(two.crossing, two.windows)
        forecast = before * self.left
        error = 100 * abs(forecast - after) / after if after else 0.0
        return [
            f"cross-zone {self._rate(one):.1f} -> {self._rate(two):.1f} MB/s, "
            f"${before:,.0f} -> ${after:,.0f} a month; forecast ${forecast:,.0f}, error {error:.1f} %",
            f"  measured over {counted(one.windows, 'window')} of act 1 and {two.windows} of act 2; "
            f"{self.prices.title} list price as of {self.prices.as_of}, 730 h",
            "",
        ]

    def _rate(self, act: Act) -> float:
        return act.crossing / (act.windows * self.window_ms * 1000)

    def _monthly(self, size: int, windows: int) -> float:
        price = self.prices.find("cross_zone")
        assert price is not None  # a shipped file has one: tests/prices/test_prices.py
        return float(money(per_month(size * price.rate, windows * self.window_ms)))
