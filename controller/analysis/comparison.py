"""What the two questions about a cell are asked of: which series, and with which statistic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from ...policies.metrics import on_pairs
from ...store.measurement import is_latency
from ...store.rollouts import FrozenConstants
from ..stats.result import NotComputable
from .batching import OF_THE_SERVER, groups_too_short, too_short
from .cells import Cell, Limit, is_amount
from .divergence import paired_divergence, too_short_apart
from .gaps import Compared, Form, canary_groups, epochs_of, paired_groups
from .groups import moment_of
from .methods import (
    lacking_share,
    paired_agreement,
    paired_differences,
    server_outcomes,
    unit_outcomes,
    unit_share,
)
from .sums import Broken, CanaryEpoch, GroupsEpoch, PairEpoch, PairGroupsEpoch, View

# The contrast at which harm begins: a gap grows up to it, a ratio falls to it (a shortfall is 0 there).
_HARM_AT: Final[dict[Form, Callable[[float], float | None]]] = {
    "gap": lambda limit: limit,
    "reverse": lambda limit: limit,
    "shortfall": lambda _: 0.0,
    "ratio": lambda limit: -limit,
    "stable": lambda _: None,
}

Epochs = Sequence[CanaryEpoch | PairEpoch | GroupsEpoch | PairGroupsEpoch]


class Side:
    """What one of the two questions (harm, safety) is asked of, and how: they may see different series."""

    def __init__(
        self,
        epochs: Epochs,
        measure: Callable[[Any], Compared | NotComputable],
        unless: Callable[[Any], NotComputable | None] | None = None,
    ) -> None:
        self.epochs = epochs
        self._unless = unless
        self.measure = measure
        self._known: dict[int, Compared | NotComputable] = {}

    def since(self, step: int) -> int:
        """How many epochs, the latest ones, belong to `step` or a later one."""
        return sum(1 for epoch in self.epochs if epoch.step >= step)

    def counts(self) -> tuple[float, float]:
        """Observations of the candidate and of stable, whether or not they are enough for a statistic."""
        candidate = stable = 0.0
        each = (
            part
            for epoch in self.epochs
            for part in (epochs_of(epoch) if isinstance(epoch, GroupsEpoch | PairGroupsEpoch) else (epoch,))
        )
        for epoch in each:
            ours, theirs = (
                (epoch.pair, epoch.pair) if isinstance(epoch, PairEpoch) else (epoch.candidate, epoch.stable)
            )
            candidate += float(ours.n.sum())
            stable += float(theirs.n.sum())
        return candidate, stable

    def look(self, latest: int) -> Compared | NotComputable:
        """Measured over the `latest` so many epochs; steps never go back, so those are a tail."""
        if latest not in self._known:
            epochs = self.epochs[len(self.epochs) - latest :]
            problem = None if self._unless is None else self._unless(epochs)
            self._known[latest] = problem or self.measure(epochs)
        return self._known[latest]


def sides_of(cell: Cell, limit: Limit, view: View, constants: FrozenConstants) -> tuple[Side, Side] | Broken:
    """What harm and what safety look at, and with which statistic."""
    if cell.against:
        side = between_groups(cell, limit, view, constants)
        return side if isinstance(side, Broken) else (side, side)
    if on_pairs(cell.gate, cell.place):
        return _paired_sides(cell, limit, view, constants)
    if is_latency(cell.gate.metric):
        return _latency_sides(cell, view, constants)
    epochs = view.canary(cell.group, cell.series, cell.series)
    if isinstance(epochs, Broken):
        return epochs
    if cell.series in OF_THE_SERVER:
        harm_at, margin = (limit.harm_at, limit.margin) if limit.effect == "ratio" else (1.0, 1.0)
        harmful = Side(epochs, partial(server_outcomes, ratio=harm_at))
        pending = any(epoch.open_candidate or epoch.open_stable or epoch.overdue for epoch in epochs)
        lacking = may_lack(cell, constants)
        if harm_at == margin and not pending and lacking == 1.0:
            return harmful, harmful
        return harmful, Side(
            epochs, partial(server_outcomes, ratio=margin, worst_case=pending, may_lack=lacking)
        )
    if limit.effect == "share":
        side = Side(epochs, partial(unit_share, least=limit.margin, sticky=constants.sticky))
        return side, side
    variance = _variance(cell.series, cell.group, constants)
    counted = not is_amount(cell.series, constants)
    side = Side(epochs, partial(unit_outcomes, sticky=constants.sticky, counted=counted, variance=variance))
    return side, side


def between_groups(cell: Cell, limit: Limit, view: View, constants: FrozenConstants) -> Side | Broken:
    """Two groups compared with each other, in one of the forms of `gaps`."""
    epochs = view.groups(cell.place, cell.group, cell.against, cell.series)
    if isinstance(epochs, Broken):
        return epochs
    form = limit.form
    least = cell.gate.min if cell.gate.min is not None else 1.0
    harm_at = _HARM_AT[form](limit.harm_at)
    if cell.place == "shadow":
        tau = max(1.0, constants.autocorrelation_time)
        return Side(
            epochs,
            partial(paired_groups, form=form, least=least, autocorrelation=tau, harm_at=harm_at),
            partial(groups_too_short, batch=constants.batch, form=form),
        )
    variances = (
        _variance(cell.series, cell.group, constants),
        _variance(cell.series, cell.against, constants),
    )
    shared = cell.gate.by in constants.shared
    measure = partial(
        canary_groups,
        form=form,
        least=least,
        sticky=constants.sticky,
        shared=shared,
        variances=variances,
        harm_at=harm_at,
    )
    return Side(epochs, measure)


def _variance(series: str, group: str, constants: FrozenConstants) -> float:
    """Of stable's y in a group, frozen."""
    deviation = moment_of(constants.deviations, series, group, constants)
    if deviation is not None:
        return deviation**2
    centre = moment_of(constants.centres, series, group, constants)
    centre = 0.5 if centre is None else centre
    return centre * (1.0 - centre)


def may_lack(cell: Cell, constants: FrozenConstants) -> float:
    """What every request has (errors, latencies, clients who left) cannot lack; what its answer tells can."""
    read = cell.series == "missing" or cell.gate.metric.startswith("stream.")
    return lacking_share(sticky=constants.sticky) if read else 1.0


def _latency_sides(cell: Cell, view: View, constants: FrozenConstants) -> tuple[Side, Side] | Broken:
    """The candidate over half the margin for harm, over all of it for safety; stable over its quantile."""
    stable = f"{cell.series}.over"
    half, whole = (view.canary(cell.group, f"{cell.series}.{part}", stable) for part in ("mid", "far"))
    if isinstance(half, Broken):
        return half
    if isinstance(whole, Broken):
        return whole
    lacking = may_lack(cell, constants)
    return (
        Side(half, partial(server_outcomes, absolute=False)),
        Side(whole, partial(server_outcomes, absolute=False, worst_case=True, may_lack=lacking)),
    )


def _paired_sides(
    cell: Cell, limit: Limit, view: View, constants: FrozenConstants
) -> tuple[Side, Side] | Broken:
    tau = max(1.0, constants.autocorrelation_time)
    if cell.gate.metric == "prediction.divergence":
        # Stable's own failures are noise that excuses the candidate's from harm, since failing alike is none;
        # they prove no safety, since copies may fail for reasons of their own.
        beside, excused = view.beside_noise(cell.place), view.beside_noise(cell.place, failures=True)
        if isinstance(beside, Broken):
            return beside
        if isinstance(excused, Broken):
            return excused
        unless = partial(too_short_apart, batch=constants.batch)
        measure = partial(paired_divergence, autocorrelation=tau)
        return Side(excused, measure, unless), Side(beside, measure, unless)
    epochs = view.pairs(cell.place, cell.group, cell.series)
    if isinstance(epochs, Broken):
        return epochs
    unless = partial(too_short, batch=constants.batch)
    unless_harmed = partial(too_short, batch=constants.batch, beside_a_change=True)
    if limit.effect == "share":
        agreement = partial(paired_agreement, least=limit.margin, autocorrelation=tau)
        return Side(epochs, agreement, unless_harmed), Side(epochs, agreement, unless)
    measure = partial(paired_differences, counted=not is_amount(cell.series, constants), autocorrelation=tau)
    if limit.effect == "ratio":
        return (
            Side(epochs, partial(measure, ratio=limit.harm_at), unless_harmed),
            Side(epochs, partial(measure, ratio=limit.margin), unless),
        )
    return Side(epochs, measure, unless_harmed), Side(epochs, measure, unless)
