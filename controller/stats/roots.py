"""Where a function crosses zero."""

from __future__ import annotations

from collections.abc import Callable


def root(f: Callable[[float], float], low: float, high: float, *, xtol: float = 2e-12, rtol: float) -> float:
    """Brent's method. ``f(low)`` and ``f(high)`` have opposite signs."""
    # Loading all of scipy.optimize takes longer than the rest of the controller together, and most commands
    # and most looks never ask for a root.
    from scipy.optimize import brentq

    return float(brentq(f, low, high, xtol=xtol, rtol=rtol))
