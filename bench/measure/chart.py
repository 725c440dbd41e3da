# SPDX-License-Identifier: Apache-2.0
"""Lines over time as a small SVG: one panel above the other, no library. Pure."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 190, 60, 190, 28, 24
_COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d5a97", "#c77f1a", "#4d4d4d", "#2a9d8f")


def chart(panels: Mapping[str, Mapping[str, Points]], unit: str) -> str:
    """Return an SVG of panels by title, each of lines by name; x is in `unit`, every y axis begins at 0."""
    body = [_panel(title, lines, unit, number * _PANEL) for number, (title, lines) in enumerate(panels.items())]
    height = _PANEL * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11">\n<rect width="{_WIDTH}" height="{height}" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _panel(title: str, lines: Mapping[str, Points], unit: str, y0: int) -> str:
    last = max((x for points in lines.values() for x, _ in points), default=1.0) or 1.0
    most = max((y for points in lines.values() for _, y in points), default=1.0) * 1.1 or 1.0
    right, floor = _WIDTH - _RIGHT, y0 + _PANEL - _BOTTOM
    across, down = right - _LEFT, _PANEL - _TOP - _BOTTOM
    parts = [f'<text x="{_LEFT}" y="{y0 + 16}" font-weight="bold">{escape(title)}</text>']
    for step in range(5):
        y, x = floor - down * step / 4, _LEFT + across * step / 4
        parts.append(f'<path d="M{_LEFT} {y:.0f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{most * step / 4:.0f}</text>')
        parts.append(f'<text x="{x:.0f}" y="{floor + 15}" text-anchor="middle">{last * step / 4:.0f} {unit}</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{_LEFT + across * x / last:.1f},{floor - down * y / most:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{right + 10}" y="{y0 + _TOP + 14 * number + 8}" fill="{colour}">{escape(name)}</text>')
    return "\n".join(parts)
