"""The sums of one randomised arm."""

from __future__ import annotations

from ...store.evidence import ArmCounts
from ...store.histogram import BINS
from ...store.measurement import CLUSTERS, MeasurementPlan
from .extras import Amount
from .sums import ALL, ArmCell, Ranks, column


class Arm:
    """All cells of one arm: `groups[slice][group]`."""

    def __init__(
        self, plan: MeasurementPlan, slices: list[tuple[frozenset[str], int]], ranks: Ranks, bins: int,
        extras: tuple[str, ...],
    ) -> None:  # fmt: skip
        clusters = CLUSTERS if plan.sticky else 1
        everything = set(ALL) if plan.extraction is not None else {"errors", "client_disconnects", "latency"}
        if plan.extraction is not None and plan.limits is None:
            everything.discard("mean")
        if plan.extraction is None or plan.extraction.selected is None:
            everything.discard("selected")
        self.whole = ArmCell(frozenset(everything), ranks, bins, clusters)
        self.groups = [
            [ArmCell(metrics, ranks, bins, clusters) for _ in range(count)] for metrics, count in slices
        ]
        # Per slice and group, as far as asked for: position of the extra and its sums.
        self.extras = [Amount(clusters) for _ in extras]
        self.group_extras = [
            [
                [(at, Amount(clusters)) for at, name in enumerate(extras) if name in metrics]
                for _ in range(count)
            ]
            for metrics, count in slices
        ]
        self.sliced = any(any(cells) for cells in self.group_extras)
        self.counts = ArmCounts()
        self.units = column(CLUSTERS) if plan.sticky else None
        self.latency = [0] * BINS
