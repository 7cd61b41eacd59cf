"""`python -m accede.router CONFIG`, CONFIG a RouterConfig as JSON: one router, run until it is stopped."""

from __future__ import annotations

import sys

import msgspec

from ..errors import AccedeError, UsageError
from .announce import announce
from .parent.process import RouterConfig, run_router


def main() -> int:
    """The exit code; an error is one line."""
    try:
        if len(sys.argv) != 2:  # noqa: PLR2004 (the program and its one argument)
            raise UsageError("python -m accede.router takes one argument, a RouterConfig as JSON")
        try:
            config = msgspec.json.decode(sys.argv[1].encode(), type=RouterConfig)
        except msgspec.DecodeError as problem:
            raise UsageError(f"the RouterConfig cannot be read: {problem}") from problem
        return run_router(config)
    except AccedeError as problem:
        announce("router", str(problem))
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main())
