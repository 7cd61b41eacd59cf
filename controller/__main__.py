"""`python -m accede.controller`: one controller in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .process import ControllerConfig, run_controller


def main() -> int:
    """Read the flags and serve."""
    parser = argparse.ArgumentParser(prog="accede controller")
    parser.add_argument("--data", type=Path, required=True, help="directory for the store and the lock")
    parser.add_argument("--services", type=Path, help="directory of service and policy files")
    parser.add_argument("--store", help="a data directory or sqlite:///path; default: in --data")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8321)
    given = parser.parse_args()
    return run_controller(
        ControllerConfig(
            data=given.data, services=given.services, store=given.store, host=given.host, port=given.port
        )
    )


if __name__ == "__main__":
    sys.exit(main())
