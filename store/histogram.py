"""The latency histogram every source keeps: log bins that add.

Bin i holds latencies in [FIRST_EDGE * GAMMA**i, FIRST_EDGE * GAMMA**(i+1)) seconds; 1024 bins reach
from 10 µs to 1.8 h at 2 % resolution, ends open (design: gamma 1.02, 1024 int64).
"""

from __future__ import annotations

from math import exp, floor, isfinite, log
from sys import float_info

GAMMA = 1.02
BINS = 1024
FIRST_EDGE = 1e-5

_LOG_GAMMA = log(GAMMA)
_LOG_FIRST = log(FIRST_EDGE)


def bin_of(seconds: float) -> int:
    """The bin of a latency in seconds, clamped to 0..BINS-1. Raises ValueError where it is not finite."""
    if not isfinite(seconds):
        raise ValueError(f"{seconds} is no latency")
    if seconds <= FIRST_EDGE:
        return 0
    return min(BINS - 1, floor((log(seconds) - _LOG_FIRST) / _LOG_GAMMA + 1e-9))


def edge(index: int) -> float:
    """The lower edge of a bin, in seconds."""
    return FIRST_EDGE * float(GAMMA**index)


_SMALLEST = 1e-6
_LOG_SMALLEST = log(_SMALLEST)


def value_bin(value: float) -> int:
    """The signed bin of a raw prediction: 0 below 1e-6 in size, else ±(1 + log bin at 2 %).

    Raises ValueError where it is not finite.
    """
    if not isfinite(value):
        raise ValueError(f"{value} has no bin")
    size = abs(value)
    if size < _SMALLEST:
        return 0
    index = 1 + floor((log(size) - _LOG_SMALLEST) / _LOG_GAMMA + 1e-9)
    return index if value > 0 else -index


def value_of(index: int) -> float:
    """The geometric middle of a value bin; the largest float where it lies beyond."""
    if index == 0:
        return 0.0
    try:
        size = exp(_LOG_SMALLEST + (abs(index) - 0.5) * _LOG_GAMMA)
    except OverflowError:
        size = float_info.max
    return size if index > 0 else -size
