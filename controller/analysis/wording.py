"""How a reading is told: findings in the units of the gate, and one sentence per verdict."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from ...policies.metrics import metric_of
from ...policies.policy import Gate
from ...policies.quantities import Margin
from ...store.histogram import GAMMA
from ...store.measurement import is_latency
from ...store.rollouts import Finding, FrozenConstants, Outcome
from .cells import Cell, display_of, limits_of, quantile_of
from .reading import Reading
from .sums import View

_MANY = 3
_LEAST = frozenset({"share", "parity"})  # effects that have a least value


def gate_text(gate: Gate) -> str:
    """As in `selection_rate by sex max_shift 5pp`."""
    words = [gate.metric]
    if gate.by is not None:
        words.append(f"by {gate.by}")
    for key, margin in (
        ("max_increase", gate.max_increase),
        ("max_shift", gate.max_shift),
        ("max_decrease", gate.max_decrease),
    ):
        if margin is not None:
            words.append(f"{key} {margin_text(margin)}")
    if gate.max_ratio is not None:
        words.append(f"max_ratio {gate.max_ratio:g}")
    if gate.min is not None:
        between = metric_of(gate).between
        words.append(f"min {_number(gate.min)}" if between else f"min {_number(100 * gate.min)}%")
    if gate.or_else is not None:
        words.append("or not worse than stable")
    return " ".join(words)


def margin_text(margin: Margin) -> str:
    """As it is written: 0.5pp, 20ms, 0.1sd, 0.01."""
    factor, unit = {"pp": (100.0, "pp"), "ms": (1000.0, "ms"), "sd": (1.0, "sd"), "plain": (1.0, "")}[
        margin.unit
    ]
    return f"{_number(margin.value * factor)}{unit}"


def finding_of(cell: Cell, reading: Reading, constants: FrozenConstants, view: View) -> Finding:
    """The finding of a cell. Numbers are in `unit`: percentage points for `pp`, factors for `×`."""
    if is_latency(cell.gate.metric):
        return _latency_finding(cell, reading, view)
    limit = limits_of(cell, constants)[0]
    display = display_of(cell, constants)
    factor = 1.0 if limit.effect == "ratio" else display.factor
    unit = "×" if limit.effect == "ratio" else display.unit
    sign = -1.0 if cell.direction == "down" and limit.effect == "difference" else 1.0
    return _finding(
        cell, reading, limit.effect, unit,
        tuple(None if v is None else v * factor for v in (reading.estimate, reading.low, reading.high)),
        (sign * limit.margin * factor, sign * limit.harm_at * factor),
    )  # fmt: skip


def verdict_reason(outcome: Outcome, findings: Sequence[Finding]) -> str:
    """Why a verdict is what it is: the finding that decides, and how many more say the same."""
    if outcome is Outcome.PASS:
        told = min(findings, key=lambda f: (f.log_e_safe or 0.0) - (f.log_needed_safe or 0.0))
        more = f", as in all {len(findings)} comparisons" if len(findings) > 1 else ""
    elif outcome is Outcome.FAIL:
        told = max(findings, key=lambda f: (f.log_e_harm or 0.0) - (f.log_needed_harm or 0.0))
        others = list(dict.fromkeys(f.cell for f in findings if f is not told))
        more = f"; also {', '.join(others[:_MANY])}" if others else ""
        more += f" and {len(others) - _MANY} more" if len(others) > _MANY else ""
    else:
        told = min(findings, key=lambda f: -1.0 if f.progress is None else f.progress)
        more = (
            f" ({len(findings)} comparisons are open)"
            if len(findings) > 1 and outcome is Outcome.INCONCLUSIVE
            else ""
        )
    return told.reason + more


def _latency_finding(cell: Cell, reading: Reading, view: View) -> Finding:
    """Told as a factor between the quantiles; what is proven about it are the snapped margins."""
    name = cell.gate.metric
    over, mid, far = view.thresholds(name)
    harm_at, margin = GAMMA ** (mid - over), GAMMA ** (far - over)
    harmful = (
        reading.harm is not None and reading.harm_needed is not None and reading.harm >= reading.harm_needed
    )
    safe = (
        reading.safe is not None and reading.safe_needed is not None and reading.safe >= reading.safe_needed
    )
    factor = view.latency_factor(name, quantile_of(name))
    numbers = (factor, harm_at if harmful else None, margin if safe else None)
    return _finding(cell, reading, "ratio", "×", numbers, (margin, harm_at))


def _finding(
    cell: Cell,
    reading: Reading,
    effect: str,
    unit: str,
    numbers: tuple[float | None, ...],
    margins: tuple[float, float],
) -> Finding:
    estimate, low, high = numbers
    return Finding(
        cell=cell.name, slice=cell.group, outcome=reading.outcome,
        reason=_sentence(cell, reading, effect, unit, numbers, margins[0]),
        effect="ratio" if effect == "ratio" else "share" if effect in _LEAST else "difference",
        unit=unit, estimate=estimate, low=low, high=high, margin=margins[0], harm_at=margins[1],
        log_e_harm=reading.harm, log_needed_harm=reading.harm_needed,
        log_e_safe=reading.safe, log_needed_safe=reading.safe_needed,
        n_stable=reading.n_stable, n_candidate=reading.n_candidate,
        method=reading.method, progress=_progress(reading),
    )  # fmt: skip


def _sentence(
    cell: Cell, reading: Reading, effect: str, unit: str, numbers: tuple[float | None, ...], margin: float
) -> str:
    """As in `selection_rate of sex=female: −9.1pp [−12, −6.2], margin 5pp: harm proven`."""
    what = (
        cell.gate.metric
        + (f" of {cell.where}" if cell.group else "")
        + (f", {cell.part}" if cell.part else "")
    )
    told = _told(reading)
    if reading.outcome is Outcome.FAIL and cell.gate.max_shift is not None:
        told += " (a shift either way is harm here, an improvement too)"
    estimate, low, high = numbers
    if estimate is None:
        return f"{what}: {told}"
    signed = effect == "difference"
    interval = (
        "" if low is None and high is None else f" [{_end(low, '−∞', signed)}, {_end(high, '∞', signed)}]"
    )
    bound = (
        f"at least {_number(margin)}{unit}" if effect in _LEAST else f"margin {_written(abs(margin), unit)}"
    )
    if cell.gate.or_else is not None:
        bound += " or not worse than stable"
    if cell.gate.max_increase is not None and cell.gate.max_ratio is not None:
        bound += f" or ×{_number(cell.gate.max_ratio)}"
    return f"{what}: {_written(estimate, unit, signed=signed)}{interval}, {bound}: {told}"


def _told(reading: Reading) -> str:
    if reading.outcome is Outcome.FAIL:
        return reading.reason or "harm proven"
    if reading.outcome is Outcome.PASS:
        return reading.reason or "proven within the margin"
    if reading.reason:
        return reading.reason
    progress = _progress(reading)
    return (
        "not decided yet" if progress is None else f"not decided yet, {progress:.0%} of the evidence needed"
    )


def _progress(reading: Reading) -> float | None:
    if reading.safe_needed is None or reading.estimate is None:
        return None
    return min(1.0, max(0.0, (reading.safe or 0.0) / reading.safe_needed))


def _written(value: float, unit: str, *, signed: bool = False) -> str:
    number = _number(value, signed=signed)
    return f"×{number}" if unit == "×" else f"{number}{unit}"


def _end(value: float | None, missing: str, signed: bool) -> str:  # noqa: FBT001 (two private callers)
    return missing if value is None or not isfinite(value) else _number(value, signed=signed)


def _number(value: float, *, signed: bool = False) -> str:
    text = f"{value:+.3g}" if signed and value else f"{value:.3g}"
    if "e" in text:
        text = f"{value:.0f}" if abs(value) >= 1.0 else f"{value:.2g}"
    return text.replace("-", "−")
