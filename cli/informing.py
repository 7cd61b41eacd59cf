"""What is shown and decides nothing: drift, latency in a shadow, and who is to blame for a harm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp

from rich.text import Text

from ..store.rollouts import Advice, Blame, Calibration, Drift, Outcome


def drift_lines(drift: Iterable[Drift]) -> Iterator[tuple[str, Text]]:
    """One line per comparison, alerts in yellow; what is withheld says why."""
    for one in drift:
        name = "card" if one.alert or not one.bins else "drift"
        parts = [*_measures(one)] or (["not shown"] if one.bins else [])
        words = ", ".join([*parts, one.note] if one.note else parts)
        told = Text(f"{one.what}, {one.between}: {words}", "yellow" if one.alert else "")
        sizes = f"{one.n_reference:.0f} and {one.n_now:.0f}" if one.bins else f"{one.n_now:.0f}"
        told.append(f" (n = {sizes}; decides nothing)", "dim")
        yield name, told


def advice_lines(advice: Iterable[Advice]) -> Iterator[tuple[str, Text]]:
    """One line per latency gate that a shadow says something of; slower ones in yellow."""
    for one in advice:
        told = Text(f"{one.gate}, shadow: {one.reason}", "yellow" if one.outcome is Outcome.FAIL else "")
        factor = f"×{one.factor:.3g}, " if one.factor is not None else ""
        margin = f"margin ×{one.margin:.4g}, " if one.margin is not None else ""
        told.append(f" ({factor}{margin}n = {one.pairs:.0f} pairs; decides nothing)", "dim")
        yield "advice", told


def _measures(one: Drift) -> Iterator[str]:
    for name, value in (
        ("PSI", one.psi), ("JS", one.js), ("KS", one.ks), ("Wasserstein", one.wasserstein),
    ):  # fmt: skip
        if value is not None:
            yield f"{name} {value:.3g}"
    if one.chi_squared is not None:
        yield f"χ² {one.chi_squared:.3g} (df {one.df})"
    if one.log_e is not None:
        yield f"equal p = {exp(-max(one.log_e, 0.0)):.2g}"


def calibration_lines(calibration: Iterable[Calibration]) -> Iterator[tuple[str, Text]]:
    """Both versions beside each other; what is withheld says why."""
    for one in calibration:
        sides = (
            ("stable", one.stable, one.stable_by_chance),
            ("candidate", one.candidate, one.candidate_by_chance),
        )
        words = [
            f"{name} {value:.2%}" + ("" if chance is None else f" (of a calibrated one {chance:.2%})")
            for name, value, chance in sides
            if value is not None
        ]
        told = Text(f"{one.what}, step {one.step}: {', '.join(words) or 'not shown'}")
        told.append(f"; {one.note}" if one.note else "")
        told.append(f" (n = {one.n_stable:.0f} and {one.n_candidate:.0f}; decides nothing)", "dim")
        yield "outcomes", told


def blame_lines(blame: Sequence[Blame]) -> Iterator[tuple[str, Text]]:
    """The comparisons that stand after adjustment; one line says so where none does."""
    if not blame:
        return
    standing = [one for one in blame if one.blamed or one.discovered]
    for one in standing:
        how = "alone proves harm among all" if one.blamed else "is among the likely ones (e-BH)"
        yield "blame", Text(f"{one.cell} {how} {len(blame)} comparisons (no power to decide)")
    if not standing:
        yield "blame", Text(f"none of {len(blame)} comparisons stands without the policy's weights", "dim")
