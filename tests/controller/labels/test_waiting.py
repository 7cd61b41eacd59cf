"""Which steps wait for labels, and what promotion needs of gates that only watch for harm in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from accede.controller.rollout.conditions import missing_to_advance
from accede.policies.outcome import Outcome as DeclaredOutcome
from accede.policies.policy import Gate, Labels
from accede.policies.quantities import Margin
from accede.store.rollouts import Analysis, Finding, Outcome, Validity

if TYPE_CHECKING:
    from tests.controller.conftest import Story

LATER = 2000.0
POOR = Validity("labels", Outcome.INCONCLUSIVE, "selective labels")
GOOD = Validity("labels", Outcome.PASS, "900 labels of 1000 mature predictions")
ACCURACY = Gate(
    metric="outcome.accuracy", place="canary", max_decrease=Margin(value=0.02, unit="pp"),
    labels=Labels(mature_after=60.0),
)  # fmt: skip


def watched(story: Story, require: str = "no-harm", place: str | None = "canary") -> Story:
    gate = ACCURACY.model_copy(update={"require": require, "place": place})
    service = story.service.model_copy(update={"outcome": DeclaredOutcome(type="binary")})
    return replace(story, service=service).varied(gates=(*story.policy.gates[:3], gate))


def finding(candidate: float) -> Finding:
    return Finding(
        "outcome.accuracy", "", Outcome.INCONCLUSIVE, "", "difference", "pp", n_candidate=candidate
    )


def seen(story: Story, *validity: Validity, labelled: float | None = None) -> Analysis:
    """Everything passes but the gate on labels, which is undecided. `labelled`: None is a glance."""
    found = story.analysis(odd={(3, "canary"): Outcome.INCONCLUSIVE}, validity=validity)
    findings = () if labelled is None else (finding(0.0), finding(labelled))
    verdicts = tuple(
        msgspec.structs.replace(one, findings=findings) if one.index == 3 else one for one in found.verdicts
    )
    return msgspec.structs.replace(found, verdicts=verdicts)


@pytest.mark.parametrize(("step", "waits"), [(0, False), (1, True), (2, True)])
def test_labels_that_cannot_be_compared_hold_steps_with_gates_on_them_only(
    story: Story, step: int, waits: bool
) -> None:
    given = watched(story)
    missing = missing_to_advance(given.at(step), given.policy, seen(given, POOR, labelled=9.0), LATER)
    assert ("selective labels" in missing) == waits


def test_promotion_waits_for_labels_wherever_their_gate_decides(story: Story) -> None:
    given = watched(story, place="shadow")
    last = missing_to_advance(given.at(2), given.policy, seen(given, POOR), LATER)
    assert "selective labels" in last
    middle = missing_to_advance(given.at(1), given.policy, seen(given, POOR), LATER)
    assert "selective labels" not in middle


def test_a_gate_that_is_only_shown_holds_nothing(story: Story) -> None:
    given = watched(story, "nothing")
    assert missing_to_advance(given.at(2), given.policy, seen(given, POOR), LATER) == ()


def test_a_gate_that_watches_for_harm_must_have_seen_labels(story: Story) -> None:
    given = watched(story)
    for look in (seen(given), seen(given, labelled=50.0), seen(given, GOOD, labelled=0.0)):
        (missing,) = missing_to_advance(given.at(2), given.policy, look, LATER)
        assert missing.endswith("no harm can have been seen before labels are mature")
    assert missing_to_advance(given.at(2), given.policy, seen(given, GOOD, labelled=50.0), LATER) == ()
    assert missing_to_advance(given.at(1), given.policy, seen(given), LATER) == ()
