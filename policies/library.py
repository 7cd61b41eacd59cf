"""The policies that ship inside the package, by name."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from ..errors import NotFound

_SUFFIX: Final = ".yaml"


def _folder() -> Traversable:
    # The folder is data, not a package of its own, and has the name of this module: go by the parent.
    return files(__name__.rpartition(".")[0]).joinpath("library")


def names() -> tuple[str, ...]:
    """The names of all library policies, sorted."""
    found = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def read(name: str) -> str:
    """The text of one library policy. Raises NotFound naming those that exist."""
    known = names()
    if name not in known:
        raise NotFound(f"no library policy '{name}'; there are: {', '.join(known)}")
    return _folder().joinpath(name + _SUFFIX).read_text(encoding="utf-8")
