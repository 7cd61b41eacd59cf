"""The names of a slice's groups: of its values, of its bins, and of crossed slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the router uses the names of groups, and must not load pydantic for them
    from .service import Slice

OTHER: Final = "other"
POOLED: Final = "(pooled)"  # all small groups of a slice together, where a gate asks for it
EVERY: Final = "[*]"  # in a path: every instance of a request
BETWEEN: Final = "/"  # the parts of a crossed group: female/[25,40)


def named_groups(values: Sequence[str], bins: Sequence[float]) -> tuple[str, ...]:
    """The groups in order, without `other`. Edges are written as in the file: `[0,25)`, `[0.5,inf)`."""
    edges = [str(int(edge)) if float(edge).is_integer() else repr(float(edge)) for edge in bins]
    return (*values, *(f"[{low},{high})" for low, high in zip(edges, [*edges[1:], "inf"], strict=False)))


def crossed(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Every combination of the parts' groups, the last part changing first."""
    return tuple(BETWEEN.join(combination) for combination in product(*parts))


def groups_of_slice(name: str, slices: Mapping[str, Slice]) -> tuple[str, ...]:
    """The named groups of a slice of a service; empty for one that is not there."""
    one = slices.get(name)
    if one is None:
        return ()
    if one.cross:
        return crossed([groups_of_slice(part, slices) for part in one.cross if not _crosses(part, slices)])
    return named_groups(one.values, one.bins)


def paths_of(name: str, slices: Mapping[str, Slice]) -> tuple[str, ...]:
    """Where a slice's values stand in a request: one path, or those of the slices it crosses."""
    one = slices[name]
    if one.path is not None:
        return (one.path,)
    return tuple(path for part in one.cross if (known := slices.get(part)) for path in (known.path,) if path)


def _crosses(name: str, slices: Mapping[str, Slice]) -> bool:
    return name in slices and bool(slices[name].cross)
