"""Time per layer as an SVG bar chart, one colour an engine. No plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from hqc.backends.bpu.profile import ProfileRow

_COLOURS = ("#2563eb", "#f59e0b", "#64748b", "#16a34a")
_BAR, _GAP, _LABEL, _WIDTH = 9, 5, 260, 900


def layer_chart(title: str, engines: Mapping[str, Sequence[ProfileRow]]) -> str:
    """The chart as SVG text. All engines list the same steps in the same order."""
    names = list(engines)
    count = len(engines[names[0]])
    longest = max((row.ms for rows in engines.values() for row in rows), default=0.0) or 1.0
    scale = (_WIDTH - _LABEL - 80) / longest
    band = _BAR * len(names) + _GAP
    height = 60 + count * band
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="10">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="18" font-size="13">{escape(title)}: milliseconds per layer</text>',
    ]
    for index, name in enumerate(names):
        total = sum(row.ms for row in engines[name])
        x = 10 + 180 * index
        lines.append(f'<rect x="{x}" y="28" width="10" height="10" fill="{_COLOURS[index % len(_COLOURS)]}"/>')
        lines.append(f'<text x="{x + 14}" y="37">{escape(name)} ({total:.2f} ms)</text>')
    for position in range(count):
        y = 50 + position * band
        first = engines[names[0]][position]
        lines.append(f'<text x="{_LABEL - 6}" y="{y + 8}" text-anchor="end">{escape(first.node)} ({escape(first.op)})</text>')
        for index, name in enumerate(names):
            ms = engines[name][position].ms
            top, width = y + index * _BAR, max(0.5, ms * scale)
            colour = _COLOURS[index % len(_COLOURS)]
            lines.append(f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR - 1}" fill="{colour}"/>')
            lines.append(f'<text x="{_LABEL + width + 3:.1f}" y="{top + 7}" font-size="8">{ms:.3f}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
