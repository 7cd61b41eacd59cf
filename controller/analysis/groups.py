"""Which groups a gate compares: all requests, a group in both arms, or two groups with each other."""

from __future__ import annotations

from collections.abc import Mapping

from ...policies.groups import POOLED
from ...policies.metrics import metric_of
from ...policies.policy import Gate
from ...store.rollouts import FrozenConstants

SMALL_GROUP = 0.02
"""Share of stable's requests below which a group is small: `small_slices` says what becomes of it."""


def groups_of(gate: Gate, constants: FrozenConstants) -> tuple[str, ...]:
    """The groups a gate holds in: all requests, or every named group of its slice (never `other`).

    With `small_slices: pool` one group stands for all small ones.
    """
    if gate.by is None:
        return ("",)
    named = tuple(group for group in constants.groups if group.startswith(f"{gate.by}="))
    if gate.small_slices != "pool":
        return named
    small = _small(gate.by, constants)
    pooled = (f"{gate.by}={POOLED}",) if small else ()
    return (*(group for group in named if group not in small), *pooled)


def compared(gate: Gate, constants: FrozenConstants) -> tuple[tuple[str, str], ...]:
    """(group, the one it is compared with) of every comparison; the latter is empty within one group.

    Between groups these are all ordered pairs or, where the slice has a reference, each group with it, in
    both orders.
    """
    groups = groups_of(gate, constants)
    if not metric_of(gate).between:
        return tuple((group, "") for group in groups)
    reference = constants.references.get(gate.by or "")
    return tuple(
        (one, other)
        for one in groups
        for other in groups
        if one != other and (reference is None or reference in {one, other})
    )


def members_of(group: str, constants: FrozenConstants) -> tuple[str, ...]:
    """The groups of evidence that a group consists of."""
    name, _, which = group.partition("=")
    return _small(name, constants) if which == POOLED else (group,)


def is_small(group: str, constants: FrozenConstants) -> bool:
    """Whether a group, or the small ones together, have less than the small share of requests."""
    if not group:
        return False
    return sum(constants.groups.get(one, 1.0) for one in members_of(group, constants)) < SMALL_GROUP


def moment_of(
    moments: Mapping[str, float], series: str, group: str, constants: FrozenConstants
) -> float | None:
    """A frozen mean or deviation of stable's y in a group; of pooled ones the mean by their shares."""
    members = members_of(group, constants)
    known = [(constants.groups.get(one, 1.0), moments.get(f"{series}|{one}")) for one in members]
    found = [(share, moment) for share, moment in known if moment is not None]
    whole = sum(share for share, _ in found)
    if whole > 0.0:
        return sum(share * moment for share, moment in found) / whole
    return sum(moment for _, moment in found) / len(found) if found else None


def _small(name: str, constants: FrozenConstants) -> tuple[str, ...]:
    """The small groups of a slice. Its reference is never one of them: others are compared with it."""
    reference = constants.references.get(name)
    return tuple(
        group
        for group, share in constants.groups.items()
        if group.startswith(f"{name}=") and share < SMALL_GROUP and group != reference
    )
