"""One cell at one look: E-values of harm and of non-inferiority, and what they say.

Harm is carried over steps: E = mean over the place's planned steps j of E^(j), where E^(j) counts the epochs
from step j on and is 1 before. So a harm that begins late is not drowned by what came before it, and one
level serves the whole rollout. Harm stands only where non-inferiority is not proven by the same epochs: E^(j)
counts as 0 while those from step j on prove the margin kept. Non-inferiority is read at this look, over all
epochs of the place, and once more over the last planned step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log

from ...policies.metrics import decides
from ...policies.policy import RolloutPolicy
from ...store.rollouts import FrozenConstants, Outcome, RolloutRecord
from ..stats.evalues import log_mean_exp
from ..stats.result import NotComputable
from .cells import Cell, Limit, limits_of
from .comparison import Side, sides_of
from .gaps import Compared, Scarce
from .methods import Asymptotic
from .sums import Broken, View

# Which series and statistics a comparison is made with; a plan puts expectations in their place.
SidesOf = Callable[[Cell, Limit, View, FrozenConstants], tuple[Side, Side] | Broken]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a cell's evidence says. E-values are logs; None where nothing could be computed.

    `estimate`, `low`, `high`: in units of y, or the factor of a ratio; `low` and `high` are the ends that
    decide harm and safety. `proven`, `proven_last`: non-inferior over all steps, over the last one.
    """

    outcome: Outcome
    reason: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    harm: float | None = None
    harm_needed: float | None = None
    safe: float | None = None
    safe_needed: float | None = None
    n_stable: float = 0.0
    n_candidate: float = 0.0
    method: str = ""
    proven_last: bool = False


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of the whole rollout, halved with every earlier attempt of the same candidate."""

    harm: float
    safe: float

    @classmethod
    def of(cls, policy: RolloutPolicy, record: RolloutRecord) -> Levels:
        """The policy's, for this attempt."""
        share = 0.5**record.attempt
        return cls(policy.risk.false_rollback * share, policy.risk.false_promotion * share)


class Reader:
    """Reads the cells of one look. What several cells measure alike is measured once."""

    def __init__(
        self,
        view: View,
        policy: RolloutPolicy,
        constants: FrozenConstants,
        levels: Levels,
        *,
        intervals: bool,
        sides: SidesOf = sides_of,
    ) -> None:
        self._sides_of = sides
        self._view = view
        self._policy = policy
        self._constants = constants
        self._levels = levels
        self._intervals = intervals
        self._sides: dict[tuple[object, ...], tuple[Side, Side] | Broken] = {}

    def read(self, cell: Cell) -> Reading:
        """The reading of one cell."""
        limits = limits_of(cell, self._constants)
        if any(limit.gap <= 0.0 for limit in limits):
            reason = "stable's values do not vary, so this margin is 0; give it in the prediction's own unit"
            return Reading(Outcome.INCONCLUSIVE, reason)
        tests: list[_Test] = []
        for limit in limits:
            sides = self._alike(cell, limit)
            if isinstance(sides, Broken):
                return Reading(Outcome.ERROR, sides.reason)
            if not sides[0].epochs or not sides[1].epochs:
                return Reading(Outcome.INCONCLUSIVE, f"no {cell.place} observations yet")
            tests.append(_Test(cell, limit, sides, self._levels))
        whole = tests[0].measured(0)
        if isinstance(whole, NotComputable):
            n_candidate, n_stable = tests[0].counts()
            return Reading(Outcome.INCONCLUSIVE, whole.reason, n_stable=n_stable, n_candidate=n_candidate)
        return self._judge(cell, tests)

    def _judge(self, cell: Cell, tests: Sequence[_Test]) -> Reading:
        """Either of two limits may hold: harm is both exceeded, safety the mean of both E-values."""
        steps = [
            number
            for number, step in enumerate(self._policy.steps)
            if step.place == cell.place and decides(cell.gate, step)
        ]
        safe_needed = -log(self._levels.safe)
        safe = {step: log_mean_exp([test.safe(step) for test in tests]) for step in (0, steps[-1])}
        harm, harm_needed, since = -inf, None, 0
        outcome = Outcome.PASS if safe[0] >= safe_needed else Outcome.INCONCLUSIVE
        if cell.weight > 0.0:
            harm, harm_needed = self._carried(tests, steps), -log(self._levels.harm * cell.weight)
            if harm >= harm_needed:
                safe |= {step: log_mean_exp([test.safe(step) for test in tests]) for step in steps}
                standing = [step for step in steps if safe[step] < safe_needed]
                harmful = standing and self._carried(tests, standing, of=len(steps)) >= harm_needed
                if harmful and not self._stable_keeps(cell, tests):
                    return self._held(tests[0])
                if harmful:
                    outcome = Outcome.FAIL
                    if safe[0] >= safe_needed:
                        since = max(standing, key=lambda step: min(test.harm(step) for test in tests))
        measured = tests[0].measured(since)
        assert not isinstance(measured, NotComputable)  # noqa: S101 (it has just been tested)
        reason = ""
        if outcome is Outcome.INCONCLUSIVE:
            reason = next((test.reason for test in tests if test.reason), "")
        elif outcome is Outcome.PASS and cell.gate.or_else is not None and tests[0].safe(0) < safe_needed:
            reason = "proven not worse than stable"
        elif since:
            reason = f"harm proven from step {since + 1} on"
        low, high = tests[0].interval(since) if self._intervals else (None, None)
        return Reading(
            outcome, reason, _finite(tests[0].shown(since)), low, high,
            _finite(harm), harm_needed, _finite(safe[0]), safe_needed,
            measured.n_stable, measured.n_candidate, measured.method, safe[steps[-1]] >= safe_needed,
        )  # fmt: skip

    def _stable_keeps(self, cell: Cell, tests: Sequence[_Test]) -> bool:
        """Whether stable itself is proven to keep an absolute limit between groups, where nothing else says
        that the candidate is to blame: then rolling back helps.
        """
        if not cell.against or cell.gate.min is None or len(tests) > 1:
            return True
        limit = Limit("parity", cell.gate.min, cell.gate.min, tests[0].gap, "stable")
        sides = self._alike(cell, limit)
        if isinstance(sides, Broken):
            return False
        got = sides[1].look(len(sides[1].epochs))
        if isinstance(got, NotComputable):
            return False
        kept = got.mirrored().safe(0.0, tests[0].gap, self._levels.safe)
        return not isinstance(kept, NotComputable) and kept >= -log(self._levels.safe)

    def _held(self, test: _Test) -> Reading:
        """Harm is proven, and stable is not proven to be any better."""
        got = test.measured(0)
        assert not isinstance(got, NotComputable)  # noqa: S101 (it has been tested)
        low, high = test.interval(0) if self._intervals else (None, None)
        return Reading(
            Outcome.INCONCLUSIVE, "below, and stable itself is not proven above: held, not rolled back",
            _finite(test.shown(0)), low, high,
            safe_needed=-log(self._levels.safe), n_stable=got.n_stable, n_candidate=got.n_candidate,
            method=got.method,
        )  # fmt: skip

    def _carried(self, tests: Sequence[_Test], steps: Sequence[int], of: int | None = None) -> float:
        """Mean over planned steps (of `of` in all; the others count as 0) of harm from there on."""
        share = log(len(steps) / of) if of is not None else 0.0
        return min(log_mean_exp([test.harm(step) for step in steps]) for test in tests) + share

    def _alike(self, cell: Cell, limit: Limit) -> tuple[Side, Side] | Broken:
        key = (
            cell.place, cell.group, cell.against, cell.series,
            limit.effect, limit.harm_at, limit.margin, limit.form,
        )  # fmt: skip
        if key not in self._sides:
            self._sides[key] = self._sides_of(cell, limit, self._view, self._constants)
        return self._sides[key]


class _Test:
    """One limit of a cell on its evidence. `step` everywhere: over the epochs from that step on."""

    def __init__(self, cell: Cell, limit: Limit, sides: tuple[Side, Side], levels: Levels) -> None:
        self._limit = limit
        self._for_harm, self._for_safe = sides
        self._turned = cell.direction == "down"
        self._harm_level = levels.harm * cell.weight
        self._safe_level = levels.safe
        # A ratio or a least share is in the estimate itself; its null is then 0.
        self._harm_null = limit.harm_at if limit.effect == "difference" else 0.0
        self._safe_null = limit.margin if limit.effect == "difference" else 0.0
        self.reason = ""  # why safety cannot be computed over all epochs

    @property
    def gap(self) -> float:
        """The difference planned for."""
        return self._limit.gap

    def counts(self) -> tuple[float, float]:
        """Observations of the candidate and of stable over all epochs."""
        return self._for_harm.counts()

    def measured(self, step: int) -> Compared | NotComputable:
        """As harm sees it."""
        return self._look(self._for_harm, step)

    def harm(self, step: int) -> float:
        """Log E of harm; 0 (E = 1) where the step has not begun or says nothing yet."""
        got = self._look(self._for_harm, step)
        if isinstance(got, NotComputable):
            return 0.0
        value = got.harm(self._harm_null, self._limit.gap, self._harm_level)
        return 0.0 if isinstance(value, NotComputable) else value

    def safe(self, step: int) -> float:
        """Log E of non-inferiority; minus infinity where it cannot be computed."""
        got = self._look(self._for_safe, step)
        if not isinstance(got, NotComputable):
            value = got.safe(self._safe_null, self._limit.gap, self._safe_level)
            if not isinstance(value, NotComputable):
                return value
            got = value
        if step == 0:
            self.reason = got.reason
        return -inf

    def shown(self, step: int) -> float:
        """The estimate as it is shown: a difference, a factor, or the share itself."""
        got = self.measured(step)
        return inf if isinstance(got, NotComputable) else self._told(got, 0.0, self._limit.harm_at)

    def interval(self, step: int) -> tuple[float | None, float | None]:
        """The ends that decide: harm's at its own level, safety's at the level of promotion."""
        near = far = None
        harmful, harmless = self.measured(step), self._look(self._for_safe, step)
        if not isinstance(harmful, NotComputable) and self._harm_level > 0.0:
            reach = -harmful.reach(self._limit.gap, self._harm_level)
            near = _finite(self._told(harmful, reach, self._limit.harm_at))
        if not isinstance(harmless, NotComputable):
            reach = harmless.reach(self._limit.gap, self._safe_level)
            far = _finite(self._told(harmless, reach, self._limit.margin))
        return (far, near) if self._turned else (near, far)

    def _look(self, side: Side, step: int) -> Compared | NotComputable:
        latest = side.since(step)
        if latest == 0:
            return NotComputable("the step has not begun")
        got = side.look(latest)
        return got.mirrored() if self._turned and not isinstance(got, NotComputable) else got

    def _told(self, got: Compared, reach: float, null: float) -> float:
        """The estimate, or an end of its interval `reach` away, as it is shown."""
        value = (got.estimate + reach) * (-1.0 if self._turned else 1.0)
        if self._limit.effect == "share":
            return min(1.0, max(0.0, self._limit.margin + value))
        if self._limit.effect == "parity":
            # D = r_g - R r_h is 0 where the ratio is R, so the ratio is R + D/r_h.
            base = got.base if isinstance(got, Asymptotic | Scarce) else 0.0
            return max(0.0, self._limit.margin + value / base) if base > 0.0 else inf
        if self._limit.effect == "ratio":
            # D = r_c - R r_s is 0 where the ratio is R, so the ratio is R + D/r_s; expected = n_c R r_s.
            expected = got.expected if isinstance(got, Asymptotic) else None
            return null + value * null * got.n_candidate / expected if expected else inf
        return value


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
