"""A worker's own brake: too many errors of the candidate within seconds, and stable answers alone.

It claims no statistics. One second is one bucket of a ring, so `over` is honoured to a second.
"""

from __future__ import annotations

from math import ceil

from ...store.routes import RouteBreaker


class Breaker:
    """Counts the candidate's assigned answers; `open` once tripped, for this generation of the route."""

    __slots__ = ("_answers", "_errors", "_rule", "_second", "generation", "open")

    def __init__(self, rule: RouteBreaker, generation: int) -> None:
        seconds = max(1, ceil(rule.over))
        self.generation = generation
        self.open = False
        self._rule = rule
        self._answers = [0] * seconds
        self._errors = [0] * seconds
        self._second: int | None = None

    def record(self, *, error: bool, now: float) -> str:
        """Count one answer at `now` (monotonic seconds). Returns why it trips, or ''."""
        second = int(now)
        size = len(self._answers)
        if self._second is None or second - self._second >= size:
            self._answers = [0] * size
            self._errors = [0] * size
        else:
            for passed in range(self._second + 1, second + 1):
                self._answers[passed % size] = self._errors[passed % size] = 0
        self._second = second if self._second is None else max(second, self._second)
        self._answers[second % size] += 1
        self._errors[second % size] += error
        if self.open or not error:
            return ""
        answers, errors = sum(self._answers), sum(self._errors)
        if answers < self._rule.min_requests or errors < self._rule.share * answers:
            return ""
        self.open = True
        return (
            f"{errors} of {answers} answers of the candidate were errors within {self._rule.over:g} s; "
            f"the breaker allows {self._rule.share:.0%}"
        )
