"""Explanations: one sentence with metric, slice, estimate, interval and margin; the numbers behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from accede.controller.rollout.explain import estimate_of, explain, interval_of, margin_of, rows_of
from accede.errors import NotFound
from accede.store.rollouts import Analysis, Decision, Finding, Outcome, Phase, Verdict, encode_record

if TYPE_CHECKING:
    from .conftest import Story

FEMALE = Finding(
    cell="selection_rate{sex=female} down", slice="sex=female", outcome=Outcome.FAIL, reason="beyond it",
    effect="difference", unit="pp", estimate=-6.25, low=-8.0, high=-4.5, margin=3.0, log_e_harm=9.0,
    log_needed_harm=5.0, log_e_safe=-40.0, log_needed_safe=3.0, n_stable=900, n_candidate=880,
)  # fmt: skip
MALE = Finding(
    cell="selection_rate{sex=male} down", slice="sex=male", outcome=Outcome.INCONCLUSIVE, reason="needs more",
    effect="difference", unit="pp", estimate=0.5, low=None, high=2.0, margin=3.0,
)  # fmt: skip
RATIO = Finding(
    cell="errors", slice="", outcome=Outcome.PASS, reason="fine", effect="ratio", unit="×",
    estimate=1.024, low=0.9, high=1.2, margin=1.5,
)  # fmt: skip
AGREEMENT = Finding(
    cell="prediction.agreement", slice="", outcome=Outcome.PASS, reason="fine", effect="share", unit="%",
    estimate=99.9, low=98.4, high=102.0, margin=90.0,
)  # fmt: skip
UNKNOWN = Finding(
    cell="latency.p95", slice="", outcome=Outcome.ERROR, reason="no clusters", effect="difference", unit="pp"
)
SELECTION = Verdict(
    "selection_rate by sex max_shift 3pp", 2, "canary", Outcome.FAIL, "sex=female -6.25 pp", (MALE, FEMALE)
)


def test_numbers_carry_their_unit_and_what_could_not_be_computed_is_said() -> None:
    assert (estimate_of(RATIO), interval_of(RATIO), margin_of(RATIO)) == ("1.02 ×", "[0.9, 1.2] ×", "1.5 ×")
    assert interval_of(MALE) == "[?, +2] pp"
    assert interval_of(AGREEMENT) == "[98.4, 100] %"
    assert (estimate_of(UNKNOWN), interval_of(UNKNOWN), margin_of(UNKNOWN)) == (
        "not computable",
        "[not computable]",
        "none",
    )


def test_a_decision_is_explained_from_what_is_stored_with_it(story: Story) -> None:
    record = story.at(1)
    analysis = Analysis(at=1050.0, verdicts=(SELECTION,), validity=())
    reason = f"{SELECTION.gate}: {SELECTION.reason}"
    decisions = [
        Decision("fraud-1", 7, 1040.0, "advance", "step 1 of 3 is done", encode_record(record), (), (), None),
        Decision("fraud-1", 12, 1050.0, "rollback", reason, encode_record(record), (), (), analysis),
    ]
    last = explain(record, decisions)
    assert (last.number, last.act) == (2, "rollback")
    assert "-6.25 pp" in last.sentence
    assert [row.finding.slice for row in last.rows] == ["sex=male", "sex=female"]
    first = explain(record, decisions, 1)
    assert first.sentence == "Advance: step 1 of 3 is done."
    with pytest.raises(NotFound, match="has 2 decisions"):
        explain(record, decisions, 3)


def test_of_decisions_that_are_not_kept_any_more_that_is_said(story: Story) -> None:
    analysis = Analysis(at=1050.0, verdicts=(SELECTION,), validity=())
    record = story.at(1, phase=Phase.ROLLED_BACK, reason="harm is proven", analysis=analysis)
    found = explain(record, [])
    assert found.sentence == "Harm is proven. Its decisions are not kept any more (--keep-decisions)."
    assert [row.finding for row in found.rows] == [MALE, FEMALE]  # what the last look saw
    with pytest.raises(NotFound, match="not kept any more"):
        explain(record, [], 1)


def test_before_any_decision_the_latest_look_is_explained(story: Story) -> None:
    record = story.at(None, analysis=Analysis(at=1001.0, verdicts=(SELECTION,), validity=()))
    explanation = explain(record, [])
    assert (explanation.number, explanation.act) == (None, "none")
    assert explanation.rows == rows_of(Analysis(at=0.0, verdicts=(SELECTION,), validity=()))
