"""Combining E-values: over steps, over cells, and for the report on who is to blame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

Importance = Literal["primary", "secondary", "advisory"]


def log_mean_exp(log_e: Sequence[float]) -> float:
    """Log of the mean of E-values, which is one again. Minus infinity stands for E = 0.

    Raises:
        ValueError: empty, or a NaN.
    """
    values = np.asarray(log_e, dtype=np.float64)
    if values.size == 0 or np.isnan(values).any():
        msg = "the mean of E-values needs at least one value and no NaN"
        raise ValueError(msg)
    return float(np.logaddexp.reduce(values)) - math.log(values.size)


def alpha_weights(importance: Mapping[str, Importance]) -> dict[str, float]:
    """Split of the harm level over cells: half over primary, half over secondary, none for advisory.

    If one of the two kinds is missing the other takes all. The weights sum to 1 unless no cell decides.
    """
    members = {kind: [c for c, i in importance.items() if i == kind] for kind in ("primary", "secondary")}
    kinds = [kind for kind in members if members[kind]]
    weights = dict.fromkeys(importance, 0.0)
    for kind in kinds:
        for cell in members[kind]:
            weights[cell] = 1.0 / len(kinds) / len(members[kind])
    return weights


def closed_e_values(e: Sequence[float]) -> list[float]:
    """Adjusted for all cells at once: e*_i = min_k (e_i + sum of the k smallest others)/(k + 1).

    The closure of averaging (Vovk and Wang 2021). Those at 1/alpha or more may all be blamed, with
    family-wise error at most alpha.
    """
    values = _checked(e)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    sizes = np.arange(1.0, values.size + 1.0)
    for index in range(values.size):
        others = values[order[order != index]]
        sums = values[index] + np.concatenate(([0.0], np.cumsum(others)))
        adjusted[index] = np.min(sums / sizes)
    return [float(a) for a in adjusted]


def e_bh(e: Sequence[float], alpha: float) -> list[int]:
    """Positions rejected by e-BH (Wang and Ramdas 2022), false discovery rate at most ``alpha``.

    The k largest, k = max{k : e_(k) >= m/(k alpha)}, in descending order of e.
    """
    if not 0.0 < alpha < 1.0:
        msg = f"alpha must lie between 0 and 1, got {alpha!r}"
        raise ValueError(msg)
    values = _checked(e)
    order = np.argsort(-values, kind="stable")
    ranks = np.arange(1.0, values.size + 1.0)
    reached = np.flatnonzero(values[order] >= values.size / (ranks * alpha))
    return [] if reached.size == 0 else [int(i) for i in order[: reached[-1] + 1]]


def _checked(e: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.array([float(x) for x in e], dtype=np.float64)
    if np.isnan(values).any() or (values < 0.0).any():
        msg = "E-values cannot be negative or NaN"
        raise ValueError(msg)
    return values
