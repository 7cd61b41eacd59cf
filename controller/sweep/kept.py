"""Sums of many rows at once, and what is remembered of epochs that do not change any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...store.evidence import Evidence
from ..evidence.columns import StoredSeries
from ..stats.arrays import Deviations, products
from .gather import Bools, EpochSums, Floats, checked, epoch_sums, is_stored
from .rows import Fill, Rows


class Asked(NamedTuple):
    """The sums of some rows in one epoch."""

    rows: Rows
    epoch: int
    evidence: Evidence


def all_sums(asked: Sequence[Asked], clusters: int, *, counts: bool) -> list[EpochSums]:
    """Those of each, gathered again only where the evidence is another."""
    known = [_kept(one, clusters, counts=counts) for one in asked]
    new = [one for one, kept in zip(asked, known, strict=True) if kept is None]
    if clusters == 1:  # of one number a step is done for all of them; more would not stay in the cache
        fresh = iter(_fresh(new, counts=counts))
    else:
        fresh = iter([epoch_sums(one.rows, one.evidence, clusters, counts=counts) for one in new])
    return [next(fresh) if one is None else one for one in known]


def end_to_end(parts: Sequence[EpochSums]) -> EpochSums:
    """The totals of several under one another."""
    totals, present, odd = (np.concatenate(each) for each in zip(*map(_totals, parts), strict=True))
    return EpochSums(np.zeros((len(odd), 2, 0, 0)), totals, present, odd)


def remembered_products(rows: Rows, one: Deviations, other: Deviations) -> Floats:
    """Those of two epochs that do not change any more are worked out once."""
    for mine, its, found in rows.products:
        if mine is one and its is other:
            return found
    found = products(one, other)
    kept = {id(sums.deviations) for _, sums in rows.sums.values() if sums is not None}
    if id(one) in kept and id(other) in kept:
        alive = [entry for entry in rows.products if id(entry[0]) in kept and id(entry[1]) in kept]
        rows.products = [*alive, (one, other, found)]
    return found


def _totals(one: EpochSums) -> tuple[Floats, Bools, Bools]:
    return one.totals, one.present, one.odd


def _kept(one: Asked, clusters: int, *, counts: bool) -> EpochSums | None:
    """What is met again is worth keeping: most evidence is another one the next time."""
    if not is_stored(one.evidence):
        return None
    known = one.rows.sums.get(one.epoch)
    if known is None or known[0] is not one.evidence:
        one.rows.sums[one.epoch] = one.evidence, None
        return None
    if known[1] is None:
        kept = epoch_sums(one.rows, one.evidence, clusters, counts=counts).kept()
        one.rows.sums[one.epoch] = known = one.evidence, kept
    return known[1]


def _fresh(asked: Sequence[Asked], *, counts: bool) -> list[EpochSums]:
    """Of one cluster each."""
    series = [one.evidence.series for one in asked]
    packed = [one.packed if isinstance(one, StoredSeries) else None for one in series]
    ends = np.cumsum([len(one.rows) for one in asked])
    sums = np.zeros((int(ends[-1]) if asked else 0, 2, 2 if counts else 3, 1))
    fills: list[Fill] = []
    for one, its, end in zip(asked, packed, ends, strict=True):
        if its is not None:
            fill = one.rows.fill(its[0], its[1].layout, 1, counts=counts)
            fill.take(its[1], sums[end - len(one.rows) : end])
            fills.append(fill)
    fine = checked(sums, counts=counts)
    found: list[EpochSums] = []
    following = iter(fills)
    for one, its, end in zip(asked, packed, ends, strict=True):
        if its is None:
            found.append(epoch_sums(one.rows, one.evidence, 1, counts=counts))
            continue
        fill, mine = next(following), slice(end - len(one.rows), end)
        odd: Bools = np.logical_or(fill.wrong, ~fine[mine])
        found.append(EpochSums(sums[mine], sums[mine, :, :, 0], fill.here, odd))
    return found
