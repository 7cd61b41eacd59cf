"""Whether the two arms lose (or have labels) alike: shares compared within each epoch, as weights change too.

Requests are assigned to arms at random, so within an epoch both must lose the same share (Mantel and Haenszel
1959). Added over epochs first, a loss that came with a larger weight would look like the candidate's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Final

FEWEST: Final = 50.0  # lost of both arms together, below which nothing is said
_SIGMA: Final = 4.5  # read at every look for weeks, so far out


@dataclass(frozen=True, slots=True)
class Apart:
    """`gap`: the candidate's share of what is gone minus stable's, `deviation` of it if both were alike."""

    gone: float
    gap: float
    deviation: float

    def beyond(self, least: float, fewest: float = FEWEST) -> bool:
        """True where one arm lost more by at least so much, and by more than chance."""
        return self.gone >= fewest and abs(self.gap) > max(least, _SIGMA * self.deviation)


def apart(epochs: Iterable[tuple[tuple[float, float], tuple[float, float]]]) -> Apart:
    """(gone, all) of the candidate and of stable per epoch; an epoch with one arm only compares nothing.

    Raises:
        ValueError: a number is negative or not finite.
    """
    excess = variance = weight = gone = 0.0
    for (gone_c, n_c), (gone_s, n_s) in epochs:
        if not all(0.0 <= count < inf for count in (gone_c, n_c, gone_s, n_s)):
            msg = f"{gone_c!r} of {n_c!r} and {gone_s!r} of {n_s!r} are no counts"
            raise ValueError(msg)
        if n_c <= 0.0 or n_s <= 0.0:
            continue
        n, x = n_c + n_s, gone_c + gone_s
        gone += x
        excess += gone_c - n_c * x / n
        variance += n_c * n_s * x * max(0.0, n - x) / (n * n * max(n - 1.0, 1.0))
        weight += n_c * n_s / n
    return Apart(gone, excess / weight, sqrt(variance) / weight) if weight else Apart(0.0, 0.0, 0.0)
