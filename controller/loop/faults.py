"""What keeps services from being looked after: said once each, and shown until it is over."""

from __future__ import annotations

import structlog

from ...errors import AccedeError

log = structlog.get_logger("accede.controller")


class Faults:
    """`problems`: service -> why its last round failed."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def say(self, name: str, reason: str, problem: BaseException | None = None) -> None:
        """Log a fault once, not four times a second."""
        if self.problems.get(name) != reason:
            self.problems[name] = reason
            log.error("a service cannot be looked after", service=name, reason=reason, exc_info=problem)

    def over(self, name: str) -> None:
        """A round of the service came to its end."""
        self.problems.pop(name, None)


def describe(problem: BaseException) -> str:
    """A fault in a line. Only our own errors' texts are known to be free of values."""
    return str(problem) if isinstance(problem, AccedeError) else type(problem).__name__
