"""Verdicts without a word, of gates whose cells are all passed or open: of all gates at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place, RolloutPolicy
from ...store.rollouts import Outcome, Verdict
from ..analysis.wording import gate_text

Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_REMEMBERED: Final = 64  # answers; most looks at a rollout come to the same


@dataclass(frozen=True, slots=True, eq=False)
class GateCells:
    """A gate in one place: its position in the policy, its `cells`, those of them that are `deciding`."""

    index: int
    place: Place
    cells: Indices
    deciding: Indices


class Silence:
    """Of the gates of one program, in their order."""

    def __init__(self, policy: RolloutPolicy, gates: Sequence[GateCells]) -> None:
        self._cells = _Parts([gate.cells for gate in gates])
        self._deciding = _Parts([gate.deciding for gate in gates])
        self._words = [tuple(_verdict(policy, gate, passed) for passed in range(3)) for gate in gates]
        self._known: dict[bytes, tuple[Verdict | None, ...]] = {}

    def of(self, sure: Bools, passed: Bools, last: Bools) -> tuple[Verdict | None, ...]:
        """A verdict for each gate whose cells are all `sure`, else None. All of cells.

        `passed`: proven; `last`: on the last step alone.
        """
        if not self._words:
            return ()
        proven = self._deciding.all(passed)
        codes = self._cells.all(sure) * (1 + proven + (proven & self._deciding.all(last)))
        key = codes.astype(np.uint8).tobytes()
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = zip(self._words, key, strict=True)
            self._known[key] = known = tuple(words[code - 1] if code else None for words, code in found)
        return known


class _Parts:
    """Some cells for each gate, at least one."""

    def __init__(self, parts: Sequence[Indices]) -> None:
        self._cells = np.concatenate([np.zeros(0, dtype=np.intp), *parts])
        self._starts = np.cumsum([0, *map(len, parts)])[:-1]

    def all(self, cells: Bools) -> Bools:
        """Whether all of a gate's cells are."""
        return np.asarray(np.logical_and.reduceat(cells[self._cells], self._starts))


def _verdict(policy: RolloutPolicy, cells: GateCells, passed: int) -> Verdict:
    """`passed`: 0 for open, 1 for passed, 2 for proven on the last step alone as well."""
    gate = policy.gates[cells.index]
    return Verdict(
        gate=gate_text(gate), index=cells.index, place=cells.place,
        outcome=Outcome.PASS if passed else Outcome.INCONCLUSIVE, reason="",
        on_fail=gate.on_fail or policy.on_fail, require=gate.require, proven_last_weight=passed > 1,
    )  # fmt: skip
