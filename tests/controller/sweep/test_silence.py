"""Verdicts that are given for all gates at once are those of each gate by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.analysis.reading import Levels
from accede.controller.sweep.program import program_of
from accede.controller.sweep.silence import Silence
from accede.store.rollouts import Outcome

from .test_swept import POLICY, constants

PROGRAM = program_of(POLICY, constants(sticky=False), Levels(0.05, 0.05))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.97, 1.0]))
def test_a_gate_is_as_its_cells_are(seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    sure, passed, last = draw.random((3, len(PROGRAM.cells))) < share
    found = PROGRAM.silence.of(sure, passed, last)
    assert len(found) == len(PROGRAM.gates)
    for gate, verdict in zip(PROGRAM.gates, found, strict=True):
        assert (verdict is None) == (not all(sure[cell] for cell in gate.cells))
        if verdict is None:
            continue
        proven = all(passed[cell] for cell in gate.deciding)
        assert verdict.outcome is (Outcome.PASS if proven else Outcome.INCONCLUSIVE)
        assert verdict.proven_last_weight == (proven and all(last[cell] for cell in gate.deciding))
        assert (verdict.index, verdict.place, verdict.reason) == (gate.index, gate.place, "")


def test_a_policy_without_gates_says_nothing() -> None:
    nothing = np.zeros(0, dtype=bool)
    assert Silence(POLICY, []).of(nothing, nothing, nothing) == ()
