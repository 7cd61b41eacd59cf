"""Who is to blame for a harm: E-values of all comparisons, adjusted for how many there are.

A report with no power to decide: what fails is found by the weights of the policy before the data, and
stands. The adjusted values say which of the comparisons would also stand alone if all had equal weight:
each with `blamed` with family-wise error at most the level (closed averages, Vovk and Wang 2021), those
with `discovered` with a false discovery rate of at most that (e-BH, Wang and Ramdas 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log

from ...store.rollouts import Blame, Outcome, Verdict
from ..stats.evalues import closed_e_values, e_bh

_LARGEST = 690.0  # of a logarithm: a thousand of them still add up


def blame(verdicts: Sequence[Verdict], level: float) -> tuple[Blame, ...]:
    """Every comparison that carries weight, the largest first; empty while nothing has failed.

    Args:
        verdicts: of one look.
        level: of harm over the whole rollout.
    """
    if all(verdict.outcome is not Outcome.FAIL for verdict in verdicts):
        return ()
    cells = [
        (f"{finding.cell}, {verdict.place}", min(finding.log_e_harm, _LARGEST))
        for verdict in verdicts
        for finding in verdict.findings
        if finding.log_e_harm is not None and finding.log_needed_harm is not None
    ]
    e = [exp(value) for _, value in cells]
    adjusted, found = closed_e_values(e), set(e_bh(e, level))
    report = [
        Blame(name, value, log(more) if more > 0.0 else -inf, more >= 1.0 / level, index in found)
        for index, ((name, value), more) in enumerate(zip(cells, adjusted, strict=True))
    ]
    finite = [one if one.log_adjusted > -inf else _nothing(one) for one in report]
    return tuple(sorted(finite, key=lambda one: -one.log_e))


def _nothing(one: Blame) -> Blame:
    return Blame(one.cell, one.log_e, -_LARGEST, blamed=False, discovered=one.discovered)
