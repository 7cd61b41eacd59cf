"""Plots of the report: intervals as they shrink, false alarms, delays."""

from __future__ import annotations

from accede.cli import drawing

from . import naive
from .results import Measured, Path

_COLOURS = {
    "ours": drawing.COLOURS["accede"],
    "peer": "#2e7d5b",
    "naive": "#7a8fb8",
    "as if independent": "#6b6b6b",
}


def plots(measured: Measured) -> dict[str, str]:
    """Name to SVG."""
    drawn: dict[str, str] = {}
    for path in measured.paths:
        name = "harm" if path.truth else "equal"
        drawn[f"statistics-interval-{name}"] = interval_plot(path)
    at = [rate for rate in measured.rates if rate.side == "harm" and rate.level == naive.LEVEL]
    groups: list[tuple[str, list[drawing.Bar], float | None]] = []
    for scene in measured.scenes:
        bars = [
            drawing.Bar(
                rate.method, 100 * rate.share, 100 * rate.interval[0], 100 * rate.interval[1],
                _COLOURS[rate.kind],
            )
            for rate in at
            if rate.scene == scene
        ]  # fmt: skip
        if bars:
            groups.append((scene, bars, 100 * naive.LEVEL))
    drawn["statistics-alarms"] = drawing.bars("Equals ever called unequal, at 5% (%)", "%", groups)
    waits = [
        (
            setting,
            [
                drawing.Bar(
                    f"{row.method}, false {row.false:.0%}:", row.median, row.median, row.median,
                    _COLOURS[row.kind],
                )
                for row in measured.delays
                if row.setting == setting and row.median is not None
            ],
            next(row.fixed for row in measured.delays if row.setting == setting),
        )
        for setting in dict.fromkeys(row.setting for row in measured.delays)
    ]  # fmt: skip
    drawn["statistics-delays"] = drawing.bars(
        "Median until a harm is called; dashed: fixed sample", "", waits
    )
    return drawn


def interval_plot(path: Path) -> str:
    """One interval as it shrinks, and the truth."""
    return drawing.band(
        f"P1's interval, {path.name}: drift, weights 1, 5, 25, 50%",
        "requests",
        "effect",
        path.points,
        path.truth,
    )
