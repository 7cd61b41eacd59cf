"""Every error Accede raises on purpose.

    AccedeError                    base; `exit_code` is what the command ends with
    ├── UsageError                 the call itself is wrong (exit 2)
    ├── FileError                  a file a user wrote is wrong; carries every Problem of the file
    ├── NotSupportedYet            a documented feature that this version does not have
    ├── Unauthorized               no valid token was shown to the API
    ├── Forbidden                  the token's role does not allow the act
    ├── NotFound                   no such service, rollout or version
    ├── Conflict                   the state does not allow the act (a second start, a finished rollout)
    ├── StoreError                 the store cannot be read or written
    │   ├── StaleWrite             a compare-and-set lost: somebody else decided first
    │   └── SourceClosed           evidence of a source that was taken for gone and is in a total already
    ├── WireError                  a stored or received record cannot be decoded
    ├── Unreachable                a process or an upstream does not answer
    ├── PortInUse                  the address to listen on is taken
    └── TimedOut                   what was waited for has not happened in time (exit 5)

Messages name the place, what was found, what is allowed and the way out. They never carry request
bodies, credentials or values of protected attributes.
"""

from __future__ import annotations

from dataclasses import dataclass


class AccedeError(Exception):
    """Base of all errors that end in one clear line for the user."""

    exit_code = 1


class UsageError(AccedeError):
    """The call itself is wrong."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file: where (1-based line and column), which key, and what to write instead."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.file}:{self.line}:{self.column}:{key} {self.message}"


class FileError(AccedeError):
    """A file a user wrote is wrong. `problems` has all of them, in file order."""

    exit_code = 2

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class NotSupportedYet(AccedeError):
    """A feature of the written language that this version does not have."""

    exit_code = 2


class Unauthorized(AccedeError):
    """No valid token was shown."""


class Forbidden(AccedeError):
    """The role of the token that was shown does not allow the act."""


class NotFound(AccedeError):
    """No such service, rollout or version."""


class Conflict(AccedeError):
    """The state does not allow the act."""


class StoreError(AccedeError):
    """The store cannot be read or written."""


class StaleWrite(StoreError):
    """A compare-and-set lost: the record or the route has changed since it was read."""


class SourceClosed(StoreError):
    """Evidence of a source whose totals have been added to those of closed ones.

    `published`: which of its publications that was, by its time; None where the store does not know.
    """

    def __init__(self, message: str, published: float | None) -> None:
        self.published = published
        super().__init__(message)


class WireError(AccedeError):
    """A stored or received record cannot be decoded."""


class Unreachable(AccedeError):
    """A process or an upstream does not answer."""

    exit_code = 1


class PortInUse(AccedeError):
    """The address to listen on is taken by another process."""


class TimedOut(AccedeError):
    """What was waited for has not happened in time."""

    exit_code = 5
