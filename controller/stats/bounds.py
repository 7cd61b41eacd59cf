"""Bounds on log E-values of ``arrays`` by elementary functions: most tests are far from their level.

A look at thousands of tests asks of each only on which side of its level it is. Each function gives arrays
(low, high) with low <= the function of the same name in ``arrays`` <= high, rounding of the order of 1e-9
aside. Where that is large they are a few tenths apart. Where it is NaN they are as well. Who needs no lower
end asks for none (``below``) and gets minus infinity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LN2 = float(np.log(2.0))
_THIRD = 1.0 / (3.0 * np.sqrt(2.0 * np.pi))
_BEYOND = 1e-4  # the expansion's next terms are at most 4e-5


def gamma_exponential_bounds(
    s: Floats, v: Floats, precision: Floats, *, below: bool = True
) -> tuple[Floats, Floats]:
    """Of ``gamma_exponential_log``.

    With a = v + rho, x = s + a and t = s/a it is, where s >= 0, the value below, less ln P(rho, rho), plus
    ln P(a, x). Of the two 1/2 < P(rho, rho) < 1/2 + 1/(3 sqrt(2 pi rho)) + 1e-4 (its expansion, Temme 1979,
    held by a test); P(a, x) > 1/2, since the median of a gamma distribution is below its mean (Chen and Rubin
    1986), and 1 - P(a, x) <= exp(-a (t - ln(1 + t))) (Chernoff). The rest of Stirling's series for lgamma(x)
    is between 0 and 1/(12 x) (Robbins 1955). Where s < 0 each exponential in the mixture is below 1.
    """
    shape = v + precision
    t = np.maximum(s, 0.0) / shape
    excess = shape * (t - np.log1p(t))
    value = 0.5 * np.log(precision / shape) + excess
    ahead = s >= 0.0
    high = np.where(ahead, value + 1.0 / (12.0 * shape) + _LN2, 0.0)
    unknown = np.isnan(s) | np.isnan(shape)
    high[unknown] = np.nan
    low = np.full_like(high, -np.inf)
    if below:
        near = np.log(np.maximum(0.5, -np.expm1(-excess)))
        centre = -np.log(np.minimum(1.0, 0.5 + _BEYOND + _THIRD / np.sqrt(precision)))
        low = np.where(ahead, value + (centre - 1.0 / (12.0 * precision)) + near, -np.inf)
    low[unknown] = np.nan
    return low, high


def asymptotic_bounds(
    estimate: Floats, variance: Floats, null: Floats, precision: Floats, df: Floats, *, below: bool = True
) -> tuple[Floats, Floats]:
    """Of ``asymptotic_log_e``.

    With u = sqrt(n ln(1 + t^2/n)) the normal quantile of t under n degrees of freedom is between
    u sqrt(1 - 1/(2n)) and u (Wallace 1959, eq. 3.1), and 1 - Phi(x) at most exp(-x^2/2)/2 where x >= 0.
    """
    usable = (variance > 1e-150) & (variance < 1e150) & (df >= 1.0) & np.isfinite(df)
    usable &= np.isfinite(estimate) & np.isfinite(null)
    variance, n = np.where(usable, variance, 1.0), np.where(usable, df, 1.0)
    distance = np.where(usable, estimate - null, 0.0)
    known = variance * precision
    # x^2/2 = s^2/(2 (v + rho)) with s = z/sqrt(variance), v = 1/variance; of the upper end of z
    most = 0.5 * n * np.log1p(distance * distance / (variance * n)) / (1.0 + known)
    cost = 0.5 * np.log1p(1.0 / known)
    ahead = distance >= 0.0
    high = np.where(usable, np.where(ahead, most + _LN2, 0.0) - cost, np.nan)
    low = np.full_like(high, -np.inf)
    if below:
        least = most * (1.0 - 0.5 / n)
        low = np.where(ahead, least + np.log(2.0 - np.exp(-least)) - cost, -np.inf)
    return np.where(usable, low, np.nan), high
