"""Compiles the data path to native code where the environment says ACCEDE_COMPILE=1; otherwise nothing.

The same sources run either way (docs/decisions/0009): mypyc turns the typed modules below into one
extension, which needs mypy and a C compiler at build time and nothing at run time. `scripts/wheel
--compiled` does all of it. Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from setuptools import setup

# What every request or every observation passes through. Folders, because a module left out is a call out.
FOLDERS = ("accede/router/proxy",)
# The process's shell (it runs once, and `python -m` cannot start an extension module), and what none of the
# speed is in: modules with msgspec records, whose annotations a compiled module does not keep, and `use`.
NOT_COMPILED = {"__init__.py", "health.py", "tls.py", "use.py", "worker.py"}


def modules() -> list[str]:
    """The files to compile, relative to the root."""
    return [
        f"{folder}/{path.name}"
        for folder in FOLDERS
        for path in sorted(Path(folder).glob("*.py"))
        if path.name not in NOT_COMPILED
    ]


if os.environ.get("ACCEDE_COMPILE") == "1":
    from mypyc.build import mypycify

    extensions: Any = mypycify(modules(), opt_level="3", debug_level="0")  # setuptools has a class of its own
    setup(ext_modules=extensions)
else:
    setup()
