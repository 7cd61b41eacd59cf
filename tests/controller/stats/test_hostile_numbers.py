"""Every public function of the statistics, given numbers that no data can have.

It refuses them: a ``NotComputable``, a ``ValueError``, or NaN where the module works on arrays. It never
answers as if they were evidence, never with NaN where it gives a number, and never with another kind of
exception.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pytest

from accede.controller import stats
from accede.controller.stats.clusters import ClusterEpoch, ClusterEstimate, cluster_estimate
from accede.controller.stats.distribution import ClassEpoch
from accede.controller.stats.events import EventEpoch
from accede.controller.stats.groups import PairedGroups
from accede.controller.stats.mean import MeanEpoch, MeanStatistic
from accede.controller.stats.result import NotComputable
from accede.controller.stats.sample_ratio import RatioEpoch, StickyRatioEpoch
from accede.controller.stats.spread import Cell

G: Final = 40
_RNG = np.random.default_rng(20)
_N_C = _RNG.poisson(30, G).astype(float) + 1.0
_N_S = _RNG.poisson(60, G).astype(float) + 1.0
_Y_C, _Y_S = np.floor(_N_C * 0.3), np.floor(_N_S * 0.25)

CLUSTERS: Final = ClusterEpoch(1 / 3, _N_C, _Y_C, _N_S, _Y_S)
MEAN: Final = MeanEpoch(0.3, 0.4, 300.0, 120.0, 60.0, 700.0, 280.0, 140.0)
CELL: Final = Cell(_N_S, _Y_S, _Y_S)
GROUPS: Final = PairedGroups(0.5, CELL, CELL, CELL, CELL)
BATCHES: Final = (_N_S, _Y_S - _N_S / 4.0, _Y_S)
"""Pairs, sum of differences and of their squares, per batch."""


LEVEL: Final = {"v_opt": 10.0, "level": 0.05}
LEVELS: Final = {"v_opt": 10.0, "level_low": 0.05, "level_high": 0.05}
CALLS: Final[dict[str, dict[str, Any]]] = {
    "apart.apart": {"epochs": [((60.0, 300.0), (90.0, 600.0))]},
    "asymptotic.interval": {"estimate": 0.1, "variance": 0.01, **LEVELS, "df": 30.0},
    "asymptotic.log_e_harm": {"estimate": 0.1, "variance": 0.01, "null": 0.0, **LEVEL, "df": 30.0},
    "asymptotic.log_e_safe": {"estimate": 0.1, "variance": 0.01, "null": 0.0, **LEVEL, "df": 30.0},
    "asymptotic.log_tail": {"z": 1.0, "df": 30.0},
    "asymptotic.t_scaled": {"z": 1.0, "df": 30.0},
    "autocorrelation.resembles_neighbours": {
        "influence": _Y_S - _Y_S.mean(),
        "filled": np.ones(G, dtype=bool),
    },
    "autocorrelation.blocked_variance": {"influence": _Y_S - _Y_S.mean()},
    "autocorrelation.memory": {"n": BATCHES[0], "y": BATCHES[1], "square": BATCHES[2]},
    "calibration.calibration_error": {
        "n": _N_S * 10,
        "gap": _Y_S,
        "square": _Y_S,
        "observations_per_bin": 1.0,
    },
    "clusters.batch_estimate": {"n": BATCHES[0], "d": BATCHES[1]},
    "clusters.cluster_estimate": {"epochs": [CLUSTERS], "ratio": 1.0},
    "clusters.effective_number": {"n": _N_S},
    "distribution.beta_binomial_log_e": {"x": 15.0, "n": 20.0, "theta0": 0.5, "alpha": 1.0, "beta": 1.0},
    "distribution.equality_log_e": {"epochs": [ClassEpoch(0.5, (40.0, 60.0), (50.0, 50.0))]},
    "distribution.psi": {"reference": _N_S * 10, "current": _N_C * 10, "observations_per_bin": 1.0},
    "drift.chi_squared": {"reference": _N_S, "current": _N_C},
    "drift.drift": {
        "reference": _N_S,
        "current": _N_C,
        "positions": np.arange(G) * 1.0,
        "observations_per_bin": 1.0,
    },
    "drift.jensen_shannon": {"reference": _N_S, "current": _N_C},
    "drift.kolmogorov_smirnov": {"reference": _N_S, "current": _N_C},
    "drift.wasserstein": {"reference": _N_S, "current": _N_C, "positions": np.arange(G) * 1.0},
    "evalues.closed_e_values": {"e": [100.0, 40.0, 3.0, 0.5, 0.0]},
    "evalues.e_bh": {"e": [100.0, 40.0, 3.0, 0.5, 0.0], "alpha": 0.05},
    "evalues.log_mean_exp": {"log_e": [1.0, 2.0, -1.0]},
    "events.interval": {"epochs": [EventEpoch(0.5, 20.0, 50.0)], "level_low": 0.05, "level_high": 0.05},
    "events.log_e_harm": {"epochs": [EventEpoch(0.5, 20.0, 50.0)], "r0": 1.0},
    "events.log_e_safe": {"epochs": [EventEpoch(0.5, 20.0, 50.0)], "r0": 1.5},
    "groups.contrast": {"epochs": [(1.0, [CELL, CELL])], "coefficients": [1.0, -1.0], "names": ["a", "b"]},
    "groups.gap_growth": {"epochs": [GROUPS]},
    "groups.ratio_growth": {"epochs": [GROUPS]},
    "groups.shortfall": {"epochs": [(CELL, CELL)], "ratio": 0.8},
    "histogram.bin_of": {"seconds": 0.1},
    "histogram.edge": {"index": 3},
    "histogram.latency_thresholds": {"counts": _N_S, "q": 0.5, "delta": 0.2},
    "histogram.over": {"counts": _N_S, "index": 3},
    "histogram.quantile": {"counts": _N_S, "q": 0.5},
    "histogram.snapped_margin": {"delta": 0.2},
    "mean.at_least_statistic": {"n": 100.0, "sum_y": 90.0, "sq_y": 90.0, "b": 0.8},
    "mean.mean_statistic": {"epochs": [MEAN]},
    "mean.paired_statistic": {"n": 100.0, "sum_d": 5.0, "sq_d": 20.0, "weight": 50.0},
    "mean.scale": {"pi": 0.3, "centre": 0.5},
    "mixture.gamma_exponential_bound": {"v": 10.0, **LEVEL, "c": 1.0},
    "mixture.gamma_exponential_log": {"s": 5.0, "v": 10.0, **LEVEL, "c": 1.0},
    "mixture.gamma_exponential_log_at": {"s": 5.0, "v": 10.0, "r": 2.0},
    "mixture.normal_bound": {"v": 10.0, **LEVEL},
    "mixture.normal_log": {"s": 5.0, "v": 10.0, **LEVEL},
    "mixture.normal_two_sided_bound": {"v": 10.0, **LEVEL},
    "mixture.normal_two_sided_log": {"s": 5.0, "v": 10.0, **LEVEL},
    "planning.event_information": {"pi": 0.5, "stable_rate": 0.01, "relative_risk": 2.0, "null_ratio": 1.0},
    "planning.events_needed": {
        "pi": 0.5,
        "stable_rate": 0.01,
        "relative_risk": 2.0,
        "null_ratio": 1.0,
        "level": 0.05,
    },
    "planning.information_needed": {"effect_gap": 0.1, "level": 0.05},
    "planning.mean_weight": {"effect_gap": 0.1, "variance": 0.04, "level": 0.05},
    "planning.paired_pairs": {"effect_gap": 0.1, "variance": 0.04, "correlation": 0.5, "level": 0.05},
    "planning.requests_for_weight": {"weight": 100.0, "pi": 0.5},
    "sample_ratio.effective_units": {"per_cluster": _N_S},
    "sample_ratio.log_e": {"epochs": [RatioEpoch((1000.0, 900.0), (0.5, 0.5))]},
    "sample_ratio.p_value": {"log_e_value": 1.0},
    "sample_ratio.sticky_log_e": {"epochs": [StickyRatioEpoch(0.5, _N_C, _N_S)], "level": 0.01},
    "spread.averaged": {"epochs": [(1.0, [CELL, CELL])], "cells": 2},
    "spread.problem_of": {"cells": [CELL]},
    "tuning.asymptotic_v_opt": {"effect_gap": 0.1, "level": 0.05},
    "tuning.kappa": {"level": 0.05},
    "tuning.log_threshold": {"level": 0.05},
    "tuning.mean_v_opt": {"variance": 0.04, "effect_gap": 0.1, "level": 0.05, "scale": 1.0},
    "tuning.rho": {"v_opt": 10.0, "level": 0.05},
    "tuning.rho_two_sided": {"v_opt": 10.0, "level": 0.05},
}

WITHOUT_DATA: Final = {
    "evalues.alpha_weights": "has no numbers",
    "autocorrelation.batches_needed": "many `memory` at once, of sums that were read as finite",
    "roots.root": "of a function, between two ends that its callers have checked",
    "scarce.at_null": "a part of `groups.contrast`, which has read the cells",
    "spread.between_clusters": "the same",
    "spread.mean_variance": "the same",
    "spread.too_few": "the same",
    "spread.within_cells": "the same",
}
"""Functions that are given nothing from outside."""

FINE: Final = {
    ("asymptotic.log_tail", "z"): "no tail is beyond infinity",
    ("asymptotic.t_scaled", "z"): "the same",
    ("asymptotic.log_tail", "df"): "the normal distribution",
    ("asymptotic.t_scaled", "df"): "the same",
    ("autocorrelation.resembles_neighbours", "filled"): "true or false",
    ("calibration.calibration_error", "observations_per_bin"): "nothing is withheld",
    ("distribution.psi", "observations_per_bin"): "the same",
    ("drift.drift", "observations_per_bin"): "the same",
    ("evalues.closed_e_values", "e[0]"): "an E-value may be infinite",
    ("evalues.e_bh", "e[0]"): "the same",
    ("evalues.log_mean_exp", "log_e[0]"): "the same, and E = 0",
    ("histogram.bin_of", "seconds"): "the last bin",
    ("sample_ratio.p_value", "log_e_value"): "p = 0 and p = 1",
}
"""Where an infinity means something."""


def mutations(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """`value` with one number in it that is none, and without its first or last part."""
    if isinstance(value, float):
        yield from ((f"{path}={bad}", bad) for bad in (math.nan, math.inf, -math.inf))
    elif isinstance(value, np.ndarray):
        for bad in (math.nan, math.inf, -math.inf):
            changed = value.copy()
            changed[-1] = bad
            yield f"{path}={bad}", changed
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            for label, changed in mutations(getattr(value, field.name), f"{path}.{field.name}"):
                yield label, dataclasses.replace(value, **{field.name: changed})
    elif isinstance(value, (list, tuple)):
        for label, changed in mutations(value[0], f"{path}[0]"):
            yield label, type(value)([changed, *value[1:]])


def function(name: str) -> Callable[..., Any]:
    module, _, own = name.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"{stats.__name__}.{module}"), own)
    return found


def numbers(result: Any) -> Iterator[float]:
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            yield from numbers(getattr(result, field.name))
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from numbers(part)
    elif isinstance(result, np.ndarray):
        yield from map(float, result.ravel())
    elif isinstance(result, (int, float)):
        yield float(result)


def test_every_public_function_is_here() -> None:
    public = {
        f"{module.name}.{name}"
        for module in pkgutil.iter_modules(stats.__path__)
        for name, found in inspect.getmembers(importlib.import_module(f"{stats.__name__}.{module.name}"))
        if inspect.isfunction(found)
        and not name.startswith("_")
        and found.__module__ == f"{stats.__name__}.{module.name}"
        and module.name not in {"arrays", "bounds"}  # their elements are below
    }
    assert public == {*CALLS, *WITHOUT_DATA}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_number_is_refused(name: str) -> None:
    call, arguments = function(name), CALLS[name]
    plain = call(**arguments)
    assert not isinstance(plain, NotComputable)
    assert not any(map(math.isnan, numbers(plain)))
    for argument, value in arguments.items():
        for label, changed in mutations(value, argument):
            try:
                found = call(**{**arguments, argument: changed})
            except ValueError:
                continue
            told = name == "spread.problem_of" and found is not None
            fine = (name, label.partition("=")[0]) in FINE and "nan" not in label
            if name == "autocorrelation.resembles_neighbours" and argument == "filled":
                continue
            assert isinstance(found, NotComputable) or told or fine, f"{label} gives {found!r}"
            assert not any(map(math.isnan, numbers(found))), label


NONE: Final = np.zeros(G)
NEGATIVE: Final = np.where(np.arange(G) == 3, -1.0, _N_S)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mean.mean_statistic", {"epochs": [dataclasses.replace(MEAN, n_c=0.0, sum_c=0.0, sq_c=0.0)]}),
        ("mean.mean_statistic", {"epochs": [dataclasses.replace(MEAN, n_s=0.0, sum_s=0.0, sq_s=0.0)]}),
        ("mean.mean_statistic", {"epochs": [dataclasses.replace(MEAN, n_c=-1.0)]}),
        ("mean.mean_statistic", {"epochs": [dataclasses.replace(MEAN, sq_c=200.0)]}),
        ("mean.mean_statistic", {"epochs": []}),
        ("mean.paired_statistic", {"n": 0.0, "sum_d": 0.0, "sq_d": 0.0}),
        ("mean.at_least_statistic", {"n": 0.0, "sum_y": 0.0, "sq_y": 0.0}),
        ("clusters.cluster_estimate", {"epochs": [dataclasses.replace(CLUSTERS, n_c=NONE, y_c=NONE)]}),
        ("clusters.cluster_estimate", {"epochs": [dataclasses.replace(CLUSTERS, n_s=NONE, y_s=NONE)]}),
        ("clusters.cluster_estimate", {"epochs": [dataclasses.replace(CLUSTERS, n_s=NEGATIVE)]}),
        ("clusters.cluster_estimate", {"epochs": [dataclasses.replace(CLUSTERS, y_s=_Y_S[:-1])]}),
        ("clusters.cluster_estimate", {"epochs": []}),
        ("clusters.batch_estimate", {"n": NONE, "d": NONE}),
        ("clusters.batch_estimate", {"n": NEGATIVE}),
        ("clusters.batch_estimate", {"n": _N_S[:-1]}),
        ("apart.apart", {"epochs": [((-1.0, 300.0), (90.0, 600.0))]}),
        ("events.log_e_harm", {"epochs": []}),
        ("events.log_e_harm", {"epochs": [EventEpoch(0.5, 0.0, 0.0)]}),
        ("events.log_e_harm", {"epochs": [EventEpoch(0.5, -1.0, 10.0)]}),
        ("events.log_e_harm", {"epochs": [EventEpoch(0.5, 11.0, 10.0)]}),
        ("groups.gap_growth", {"epochs": []}),
        ("groups.gap_growth", {"epochs": [dataclasses.replace(GROUPS, h_c=Cell(NONE, NONE, NONE))]}),
        ("groups.gap_growth", {"epochs": [dataclasses.replace(GROUPS, h_s=Cell(NEGATIVE, _Y_S, _Y_S))]}),
        ("groups.ratio_growth", {"epochs": [dataclasses.replace(GROUPS, h_s=Cell(_N_S, NONE, NONE))]}),
        ("groups.shortfall", {"epochs": [(CELL, Cell(_N_S[:-1], _Y_S, _Y_S))]}),
        ("distribution.equality_log_e", {"epochs": [ClassEpoch(0.5, (1.0,), (1.0, 2.0))]}),
        ("distribution.equality_log_e", {"epochs": [ClassEpoch(0.5, (0.0, 0.0), (0.0, 0.0))]}),
        ("distribution.equality_log_e", {"epochs": [ClassEpoch(0.5, (-1.0, 9.0), (5.0, 5.0))]}),
        ("distribution.psi", {"current": NONE}),
        ("distribution.psi", {"current": NEGATIVE}),
        ("distribution.psi", {"current": _N_C[:-1]}),
        ("drift.drift", {"positions": np.arange(G - 1) * 1.0}),
        ("calibration.calibration_error", {"n": NONE, "gap": NONE, "square": NONE}),
        ("calibration.calibration_error", {"gap": _Y_S[:-1]}),
        ("sample_ratio.log_e", {"epochs": [RatioEpoch((0.0, 0.0), (0.5, 0.5))]}),
        ("sample_ratio.log_e", {"epochs": [RatioEpoch((-1.0, 5.0), (0.5, 0.5))]}),
        ("sample_ratio.log_e", {"epochs": [RatioEpoch((1.0, 5.0), (0.5, 0.6))]}),
        ("sample_ratio.sticky_log_e", {"epochs": [StickyRatioEpoch(0.5, NONE, NONE)]}),
        ("sample_ratio.sticky_log_e", {"epochs": [StickyRatioEpoch(0.5, NEGATIVE, _N_S)]}),
        ("autocorrelation.memory", {"y": np.full(G, 2.0) * _N_S, "square": np.full(G, 4.0) * _N_S}),
        ("autocorrelation.memory", {"n": NEGATIVE}),
        ("histogram.quantile", {"counts": NONE}),
        ("histogram.quantile", {"counts": NEGATIVE}),
        ("evalues.closed_e_values", {"e": [1.0, -1.0]}),
        ("evalues.log_mean_exp", {"log_e": []}),
        ("sample_ratio.effective_units", {"per_cluster": NONE[:0]}),
        ("asymptotic.log_e_safe", {"variance": 0.0}),
        ("asymptotic.log_e_safe", {"variance": -1.0}),
        ("asymptotic.log_e_safe", {"df": 0.5}),
    ],
)
def test_sums_of_nothing_and_sums_that_cannot_be_are_refused(name: str, changed: dict[str, Any]) -> None:
    """Empty, one arm only, negative counts, unequal lengths, no variance."""
    try:
        found = function(name)(**{**CALLS[name], **changed})
    except ValueError:
        return
    assert isinstance(found, NotComputable), found


def test_what_never_varies_has_no_asymptotic_test() -> None:
    same = dataclasses.replace(CLUSTERS, y_c=NONE, y_s=NONE)
    found = cluster_estimate([same])
    assert isinstance(found, ClusterEstimate)
    for asked in (found.log_e_harm(0.0, 10.0, 0.05), found.log_e_safe(0.1, 10.0, 0.05)):
        assert isinstance(asked, NotComputable)
    assert isinstance(found.interval(10.0, 0.05, 0.05), NotComputable)


ELEMENTS: Final[dict[str, tuple[float, ...]]] = {
    "arrays.asymptotic_log_e": (0.1, 0.01, 0.0, 5.0, 30.0),
    "arrays.asymptotic_reach": (0.01, 5.0, 0.05, 30.0),
    "arrays.gamma_exponential_bound": (10.0, 2.0, 0.05),
    "arrays.gamma_exponential_log": (5.0, 10.0, 2.0),
    "arrays.kappa": (0.05,),
    "arrays.normal_log": (5.0, 10.0, 2.0),
    "arrays.rho": (10.0, 0.05),
    "arrays.t_scaled": (1.0, 30.0),
    "bounds.asymptotic_bounds": (0.1, 0.01, 0.0, 5.0, 30.0),
    "bounds.gamma_exponential_bounds": (5.0, 10.0, 2.0),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_nan_stays_nan_and_reaches_no_other_element(name: str) -> None:
    plain = ELEMENTS[name]
    for position in range(len(plain)):
        columns = [np.full(3, value) for value in plain]
        columns[position][1] = math.nan
        with np.errstate(all="ignore"):
            found = function(name)(*columns)
        for part in found if isinstance(found, tuple) else (found,):
            lost = ~np.isfinite(part) if name == "arrays.asymptotic_reach" else np.isnan(part)  # no bound
            assert lost.tolist() == [False, True, False], f"argument {position}"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_statistic_of_a_mean_refuses_margins_that_are_none(bad: float) -> None:
    seen = MeanStatistic(1.0, 5.0, 10.0)
    for asked in (seen.log_e_harm, seen.log_e_safe):
        with pytest.raises(ValueError, match="finite"):
            asked(bad, 10.0, 0.05)
