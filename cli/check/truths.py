"""Pairs joined to what is known to be true of their rows: the router's memory and the controller's sums."""

from __future__ import annotations

from typing import Final

from ...controller.labels.folding import meaning_of
from ...controller.labels.joining import Meaning, fold
from ...policies.policy import RolloutPolicy
from ...router.facts import Pair
from ...router.observer.fold import Fold
from ...router.observer.notebook import Notebook
from ...router.observer.pairing import PairSeen
from ...router.observer.remembered import Remembering
from ...store.evidence import Evidence
from ...store.labels import Joined
from ...store.labels import Label as Known
from ...store.measurement import MeasurementPlan
from ...store.rollouts import RolloutRecord
from .truth import Label

_AT_ONCE: Final = 500  # rows that wait to be summed


class Truths:
    """Of one epoch. Nothing is mature or late here: a row's label is there with it, or never comes."""

    def __init__(self, service: str, meaning: Meaning, remembering: Remembering, notebook: Notebook) -> None:
        self._service, self._meaning = service, meaning
        self._remembering, self._notebook = remembering, notebook
        self._rows: list[Joined] = []
        self._sums: tuple[Evidence, ...] = ()

    @classmethod
    def of(
        cls, service: str, policy: RolloutPolicy, plan: MeasurementPlan, record: RolloutRecord, folded: Fold
    ) -> Truths | None:
        """None where no gate asks for outcomes."""
        notebook = Notebook()
        remembering = Remembering.of(service, plan, folded.slice_names, notebook)
        meaning = meaning_of(policy, plan, record.constants)
        return (
            None if remembering is None or meaning is None else cls(service, meaning, remembering, notebook)
        )

    def pair(self, pair: Pair, seen: PairSeen, label: Label) -> None:
        """Take one pair, and what is known of its row."""
        self._remembering.pair(pair, seen)
        for _, predictions in self._notebook.hand_out():
            for one in predictions:
                known = Known(one.request, label.values, label.groups) if any(label) else None
                self._rows.append(Joined(one, known, 0))
        if len(self._rows) >= _AT_ONCE:
            self.sums()

    def sums(self) -> tuple[Evidence, ...]:
        """All so far."""
        if self._rows:
            self._sums = fold(self._service, self._rows, self._sums, self._meaning, 1.0)[1]
            self._rows = []
        return self._sums
