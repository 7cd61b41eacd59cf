"""Small groups of labels: a number about three people may tell who they are, so none is told or decided.

A group with fewer labelled requests of either version than its gate's `min_group` is inconclusive without any
number. Beginning to look at a group only once it is large is one of the looks that every test here allows.
"""

from __future__ import annotations

from ...policies.metrics import on_labels, on_pairs
from ...store.evidence import ArmKey, SeriesKey
from ...store.rollouts import Outcome
from ..analysis.cells import Cell
from ..analysis.groups import members_of
from ..analysis.reading import Reading
from ..analysis.sums import Broken, View, sums_of
from .joining import INSIDE


def too_few_to_tell(cell: Cell, view: View) -> Reading | None:
    """The reading of a group that is too small; None where it is not, or where a cell is of all requests."""
    gate = cell.gate
    if not cell.group or gate.labels is None or not on_labels(gate):
        return None
    arms: tuple[ArmKey, ...] = ("candidate",) if cell.series == INSIDE else ("candidate", "stable")
    if on_pairs(gate, cell.place):
        arms = ("pair",)
    least = gate.labels.min_group
    counted = [_labelled(cell, arm, view) for arm in arms]
    if None in counted or min(n for n in counted if n is not None) >= least:
        return None
    return Reading(Outcome.INCONCLUSIVE, f"fewer than {least} labels, so nothing of this group is told")


def _labelled(cell: Cell, arm: ArmKey, view: View) -> float | None:
    """None where sums are broken: the reader says so."""
    total = 0.0
    for _, _, found in view.epochs(cell.place):
        for group in members_of(cell.group, view.constants):
            sums = sums_of(found, SeriesKey(arm, group, cell.series), low=-1.0 if arm == "pair" else 0.0)
            if isinstance(sums, Broken):
                return None
            total += float(sums.n.sum()) if sums is not None else 0.0
    return total
