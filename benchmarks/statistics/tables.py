"""Rows of the report's tables, and what the delays say in words."""

from __future__ import annotations

from . import naive
from .results import Delay, Folded, Rate, Size

NAIVE = ("t", "Mann-Whitney", "Kolmogorov-Smirnov", "two proportions", "χ²", "Kayenta")
POOLED = ("t, pooled over steps", "χ², pooled over steps")
_KINDS = {
    "ours": "Accede",
    "possible": "possible",
    "peer": "peer",
    "as if independent": "as if independent",
    "naive": "naive",
}


def percent(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.share:.2%} ({low:.2%} to {high:.2%})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def ours_rows(rates: list[Rate]) -> list[list[str]]:
    """One row per scene, method and level: harm and safety."""
    mine = [rate for rate in rates if rate.kind == "ours"]
    by = {(rate.scene, rate.method, rate.level, rate.side): rate for rate in mine}
    rows: list[list[str]] = []
    for scene, method, level in dict.fromkeys((r.scene, r.method, r.level) for r in mine):
        harm, safe = (by[scene, method, level, side] for side in ("harm", "safe"))
        rows.append(
            [scene, method, f"{level:.1%}", percent(harm), percent(safe), f"{harm.allowed:.2%}",
             "yes" if harm.held and safe.held else "**no**", f"{harm.runs}"]
        )  # fmt: skip
    return rows


def compared_rows(rates: list[Rate], names: tuple[str, ...]) -> list[list[str]]:
    """Harm among equals at 5%, one column per test."""
    at = [rate for rate in rates if rate.side == "harm" and rate.level == naive.LEVEL]
    rows: list[list[str]] = []
    for scene in dict.fromkeys(rate.scene for rate in at):
        here = {rate.method: rate for rate in at if rate.scene == scene and rate.kind == "naive"}
        best = max((rate.share for rate in at if rate.scene == scene and rate.kind == "ours"), default=0.0)
        if any(name in here for name in names):
            rows.append(
                [
                    scene,
                    f"{best:.1%}",
                    *(f"{here[name].share:.1%}" if name in here else "–" for name in names),
                ]
            )
    return rows


def _amount(value: float | None, unit: str) -> str:
    return "not by the end" if value is None else f"{value:.0f} {unit}"


def delay_rows(delays: list[Delay]) -> list[list[str]]:
    return [
        [row.method, _KINDS[row.kind], _amount(row.median, row.unit),
         "–" if row.ratio is None else f"{row.ratio:.2f}", _amount(row.most, row.unit),
         f"{row.found:.1%}", f"{row.false:.1%}"]
        for row in delays
    ]  # fmt: skip


def found_words(delays: list[Delay]) -> list[str]:
    """What the delays say about the two promises, in words made from the figures."""
    words: list[str] = []
    for setting in dict.fromkeys(row.setting for row in delays):
        here = [row for row in delays if row.setting == setting]
        for own in (row for row in here if row.kind == "ours"):
            ahead: list[str] = []
            behind: list[str] = []
            for peer in (row for row in here if row.kind == "peer"):
                late = peer.median is None or (own.median is not None and own.median < peer.median)
                (ahead if late else behind).append(peer.method)
            ratio = "never by the end" if own.ratio is None else f"{own.ratio:.2f} times the fixed sample"
            said = f"- **{setting}**, {own.method}: {ratio}"
            if ahead or behind:
                said += (
                    f"; ahead of {', '.join(ahead) or 'no peer'}; not ahead of {', '.join(behind) or 'none'}"
                )
            words.append(said + ".")
    return words


def volume(folded: list[Folded], sizes: list[Size]) -> list[str]:
    return [
        *table(["observations", "into sums", "analysed", "result of equals"],
               [[f"{f.observations / 1e6:g} million", f"{f.folding:.2f} s", f"{1e3 * f.analysis:.1f} ms",
                 f.read] for f in folded]), "",
        "Evidence of one source and epoch, which does not grow with traffic, with every sum filled:", "",
        *table(["plan", "said beforehand", "encoded", "limit"],
               [[s.plan, *(f"{n / 1024:.0f} KiB" for n in (s.estimated, s.encoded, s.limit))]
                for s in sizes]),
    ]  # fmt: skip
