"""Which HTTP status tells which of our errors."""

from __future__ import annotations

from ...errors import (
    AccedeError,
    Conflict,
    FileError,
    Forbidden,
    NotFound,
    NotSupportedYet,
    StaleWrite,
    StoreError,
    Unauthorized,
    UsageError,
)


def http_code(problem: AccedeError) -> int:
    """The HTTP status of an error, by its kind; the first that fits."""
    codes: tuple[tuple[type[AccedeError], int], ...] = (
        (StaleWrite, 409),
        (StoreError, 503),
        (Unauthorized, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Conflict, 409),
        (NotSupportedYet, 501),
        (FileError, 422),
        (UsageError, 400),
    )
    return next((code for kind, code in codes if isinstance(problem, kind)), 500)
