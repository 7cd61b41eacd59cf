"""Plots as SVG: bars with a limit, curves with a spread, stacked shares, series over time, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

COLOURS = {"nginx": "#2e7d5b", "haproxy": "#7a8fb8", "envoy": "#b8579a", "accede": "#e07b24"}
_PALETTE = (
    "#e07b24",
    "#3b6ea5",
    "#2e7d5b",
    "#b8579a",
    "#8a7a2e",
    "#6b6b6b",
    "#a33b3b",
    "#52a3a3",
    "#c9b458",
    "#999999",
)
_WIDTH = 760
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


class Bar(NamedTuple):
    """One bar: its median and the range of the rounds."""

    label: str
    value: float
    low: float
    high: float
    colour: str


class Series(NamedTuple):
    """One line: (x, y) in order; `spread`: (x, low, high)."""

    label: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float, float]] = ()


class Interval(NamedTuple):
    """One estimate with its interval and its margins; None: an end that is not known."""

    label: str
    estimate: float
    low: float | None
    high: float | None
    margins: Sequence[float]
    unit: str
    colour: str


def colour(index: int) -> str:
    """The index-th of a palette."""
    return _PALETTE[index % len(_PALETTE)]


def bars(title: str, unit: str, groups: Sequence[tuple[str, Sequence[Bar], float | None]]) -> str:
    """Horizontal bars in groups, each group on a scale of its own, its limit as a dashed line."""
    parts: list[str] = [_text(10, 20, title, "bold")]
    y, left, room = 40.0, 250, _WIDTH - 380
    for name, group, limit in groups:
        top = max([bar.high for bar in group] + [limit or 0.0]) or 1.0
        parts.append(_text(10, y + 12, name))
        begin = y
        for bar in group:
            wide, low, high = (room * v / top for v in (bar.value, bar.low, bar.high))
            parts.append(f'<rect x="{left}" y="{y:.1f}" width="{wide:.1f}" height="14" fill="{bar.colour}"/>')
            parts.append(_line(left + low, y + 7, left + high, y + 7, "#222"))
            parts.append(
                _text(left + max(high, wide) + 6, y + 12, f"{bar.label} {_number(bar.value)} {unit}")
            )
            y += 18
        if limit is not None:
            x = left + room * limit / top
            parts.append(_line(x, begin - 3, x, y, "#a33b3b", "4 3"))
        y += 14
    return _svg(y, parts)


def curves(title: str, x: str, unit: str, series: Sequence[Series], *, logarithmic: bool = False) -> str:
    """Lines over x from 0 upwards, with the range of the rounds as strokes."""
    high = max(400.0, 60.0 + 18 * len(series))
    left, right, top, bottom = 70.0, _WIDTH - 170.0, 40.0, high - 50
    places = [p for one in series for p in one.points]
    if not places:
        return _svg(60, [_text(10, 20, title, "bold"), _text(10, 44, "nothing was measured")])

    def scale(value: float) -> float:
        return math.log10(max(value, 1e-9)) if logarithmic else value

    xs = [scale(p[0]) for p in places]
    low_x, wide = min(xs), (max(xs) - min(xs)) or 1.0
    most = max([p[1] for p in places] + [s[2] for one in series for s in one.spread]) * 1.08 or 1.0

    def at(px: float, py: float) -> tuple[float, float]:
        return left + (scale(px) - low_x) / wide * (right - left), bottom - py / most * (bottom - top)

    parts = [_text(10, 20, title, "bold"), _text((left + right) / 2, high - 12, x)]
    for step in range(5):
        value = most * step / 4
        _, y = at(places[0][0], value)
        parts += [_line(left, y, right, y, "#dddddd"), _text(8, y + 4, f"{_number(value)} {unit}")]
    ticks = sorted({p[0] for p in places})
    for value in ticks if len(ticks) <= 8 else ticks[:: max(1, len(ticks) // 6)]:
        parts.append(_text(at(value, 0)[0] - 6, bottom + 18, _number(value)))
    for index, one in enumerate(series):
        drawn = " ".join("{:.1f},{:.1f}".format(*at(px, py)) for px, py in one.points)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour(index)}" stroke-width="2"/>')
        for px, low, up in one.spread:
            (sx, y1), (_, y2) = at(px, low), at(px, up)
            parts.append(_line(sx, y1, sx, y2, colour(index)))
        y = top + 18 * index
        parts += [_line(right + 12, y, right + 30, y, colour(index)), _text(right + 36, y + 4, one.label)]
    return _svg(high, parts)


def stacked(title: str, unit: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """One bar per row, made of named parts in `unit`; the same name has the same colour."""
    names = list(dict.fromkeys(name for _, shares in rows for name, _ in shares))
    parts, y, left = [_text(10, 20, title, "bold")], 40.0, 210
    for label, shares in rows:
        total = sum(value for _, value in shares) or 1.0
        parts.append(_text(10, y + 17, f"{label} ({_number(total)} {unit})"))
        x = float(left)
        for name, value in shares:
            wide = (_WIDTH - left - 20) * value / total
            fill = colour(names.index(name))
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="24" fill="{fill}"/>')
            if wide > 44:
                parts.append(_text(x + 4, y + 16, _number(value)))
            x += wide
        y += 36
    for index, name in enumerate(names):
        x, row = left + 135 * (index % 4), y + 18 * (index // 4)
        parts.append(f'<rect x="{x}" y="{row}" width="10" height="10" fill="{colour(index)}"/>')
        parts.append(_text(x + 14, row + 10, name))
    return _svg(y + 18 * (len(names) // 4 + 1) + 12, parts)


def intervals(title: str, rows: Sequence[Interval]) -> str:
    """Estimates with their intervals, each on a scale of its own; margins are dashed, no effect is dotted."""
    parts, y, left, right = [_text(10, 20, title, "bold")], 44.0, 330.0, _WIDTH - 130.0
    for row in rows:
        nothing = 1.0 if row.unit == "×" else 0.0
        marks = [row.estimate, nothing, *row.margins]
        inner, outer = min(marks), max(marks)
        room = 0.25 * ((outer - inner) or 1.0)
        ends = [v for v in (row.low, row.high) if v is not None and math.isfinite(v)]
        low = max(min([inner, *ends]), inner - 4 * room) - room
        high = min(max([outer, *ends]), outer + 4 * room) + room

        def at(value: float, low: float = low, high: float = high) -> float:
            return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

        parts.append(_text(10, y + 4, row.label))
        parts.append(_line(at(nothing), y - 9, at(nothing), y + 9, "#999999", "1 2"))
        parts += [_line(at(m), y - 9, at(m), y + 9, "#a33b3b", "4 3") for m in row.margins]
        begin = left if row.low is None else at(row.low)
        end = right if row.high is None else at(row.high)
        parts.append(_line(begin, y, end, y, row.colour))
        parts.append(f'<circle cx="{at(row.estimate):.1f}" cy="{y:.1f}" r="4" fill="{row.colour}"/>')
        parts.append(_text(right + 10, y + 4, f"{_number(row.estimate)} {row.unit}"))
        y += 26
    return _svg(y, parts)


def band(
    title: str, x: str, unit: str, points: Sequence[tuple[float, float, float, float]], truth: float
) -> str:
    """An interval over x: (x, low, estimate, high) in order; 0 is dotted, the truth dashed."""
    high, left, right, top = 400.0, 70.0, _WIDTH - 30.0, 40.0
    bottom = high - 50
    marks = [truth, 0.0, *(value for p in points[len(points) // 8 :] for value in p[1:])]
    low_y, most = min(marks), max(marks)
    low_x, last = points[0][0], points[-1][0]

    def at(px: float, py: float) -> str:
        inside = min(max(py, low_y), most)
        across = left + (px - low_x) / ((last - low_x) or 1.0) * (right - left)
        return f"{across:.1f},{bottom - (inside - low_y) / ((most - low_y) or 1.0) * (bottom - top):.1f}"

    def level(py: float) -> float:
        return float(at(low_x, py).partition(",")[2])

    outline = " ".join([at(p[0], p[1]) for p in points] + [at(p[0], p[3]) for p in reversed(points)])
    middle = " ".join(at(p[0], p[2]) for p in points)
    parts = [
        _text(10, 20, title, "bold"), _text((left + right) / 2, high - 12, x),
        f'<polygon points="{outline}" fill="{colour(0)}" fill-opacity="0.25"/>',
        f'<polyline points="{middle}" fill="none" stroke="{colour(0)}" stroke-width="2"/>',
        _line(left, level(0.0), right, level(0.0), "#999999", "1 2"),
        _line(left, level(truth), right, level(truth), "#a33b3b", "4 3"),
    ]  # fmt: skip
    for step in range(5):
        value = low_y + (most - low_y) * step / 4
        parts.append(_text(8, level(value) + 4, f"{_number(value)}"))
        place = low_x + (last - low_x) * step / 4
        parts.append(_text(left + (right - left) * step / 4 - 12, bottom + 18, _number(place)))
    parts.append(_text(8, 34, unit))
    return _svg(high, parts)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-weight="{weight}" fill="#222">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashed}/>'


def _svg(high: float, parts: Sequence[str]) -> str:
    box = f'width="{_WIDTH}" height="{high:.0f}" viewBox="0 0 {_WIDTH} {high:.0f}"'
    inside = "\n".join((f'<rect width="{_WIDTH}" height="{high:.0f}" fill="#ffffff"/>', *parts))
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{inside}\n</svg>\n'
