"""What a rollout remembers for labels: fixed when it begins, and affordable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from accede.controller.labels.folding import meaning_of
from accede.controller.labels.joining import Meaning
from accede.controller.labels.size import label_bytes
from accede.controller.rollout.measuring import measurement_plan, require_affordable
from accede.controller.rollout.routing import rollout_route
from accede.errors import Conflict
from accede.policies.outcome import Outcome
from accede.policies.policy import Gate, Labels
from accede.policies.quantities import Comparison, Margin
from accede.policies.service import Slice, Uncertainty
from accede.store.evidence import encode_evidence
from accede.store.labels import Label, Prediction, request_key
from accede.store.measurement import CLUSTERS
from tests.controller.labels.test_joining import arm, folded, pair

if TYPE_CHECKING:
    from tests.controller.conftest import Story

WEEK = 7 * 86400.0


def on(metric: str, by: str | None = None) -> Gate:
    return Gate(
        metric=metric, by=by, max_decrease=Margin(value=0.02, unit="pp"), labels=Labels(mature_after=WEEK)
    )


def begun(story: Story, *gates: Gate) -> Story:
    outcome = Outcome(type="binary", sample=0.5)
    service = story.service.model_copy(update={"outcome": outcome})
    return type(story)(service, story.policy.model_copy(update={"gates": (*story.policy.gates, *gates)}))


def meaning(story: Story) -> Meaning:
    record = story.at(None)
    plan = measurement_plan(record, story.policy, story.service, record.epochs[0], None)
    found = meaning_of(story.policy, plan, None)
    assert found is not None
    return found


def test_what_labels_are_held_against_stays_when_the_file_changes(story: Story) -> None:
    now = begun(story, on("outcome.accuracy", "sex"))
    route = rollout_route(now.service, now.at(None), now.policy, now.idle())
    prediction = now.service.prediction.model_copy(
        update={"selected": Comparison(operator="<", operand=0.1), "agree_within": 0.3}
    )
    later = now.service.model_copy(
        update={"prediction": prediction, "outcome": Outcome(type="number", sample=0.1), "slices": {}}
    )
    changed = rollout_route(later, now.at(1), now.policy, route)
    gone = rollout_route(later.model_copy(update={"outcome": None}), now.at(1), now.policy, route)
    assert route.plan is not None
    for one in (changed.plan, gone.plan):
        assert one is not None
        assert meaning_of(now.policy, one, None) == meaning_of(now.policy, route.plan, None)
        assert (one.labels, one.label_sample, one.label_keep) == (True, 0.5, 30 * 86400.0)


def test_nothing_is_remembered_without_a_gate_on_labels(story: Story) -> None:
    plain = begun(story)
    record = plain.at(None)
    plan = measurement_plan(record, plain.policy, plain.service, record.epochs[0], None)
    assert (plan.labels, plan.outcome) == (False, None)
    assert meaning_of(plain.policy, plan, None) is None


def test_numbers_without_a_declared_range_are_read_from_the_baseline_on(story: Story) -> None:
    """Their one metric compares with the stated interval; nothing is scaled."""
    now = begun(story, on("uncertainty.coverage"))
    service = now.service.model_copy(
        update={
            "outcome": Outcome(type="number"),
            "uncertainty": Uncertainty(path="std"),
            "prediction": now.service.prediction.model_copy(update={"range": None}),
        }
    )
    found = meaning(type(story)(service, now.policy))
    assert found.limits is None
    row = arm("a", 130.0, stated=(((100.0, 150.0),),))
    sums = folded([(row, Label(request_key("s", "a"), (120.0,)))], found)
    assert {key.metric for key in sums.series} >= {"labelled", "uncertainty.coverage"}


@pytest.mark.parametrize("sticky", [False, True])
def test_the_sums_of_labels_are_as_large_as_expected(story: Story, sticky: bool) -> None:
    now = begun(story, on("outcome.accuracy", "sex"), on("outcome.brier"))
    unit = now.service.unit.model_copy(update={"header": "x-user-id"})
    service = now.service.model_copy(update={"unit": unit}) if sticky else now.service
    now = type(story)(service, now.policy)
    record = now.at(0)
    plan = measurement_plan(record, now.policy, now.service, record.epochs[-1], None)
    found = meaning_of(now.policy, plan, None)
    assert found is not None
    rng = np.random.default_rng(5)
    rows: list[tuple[Prediction, Label | None]] = []
    for k in range(1500):  # of every kind and group, over every cluster of units and of time
        groups = (tuple(f"sex={('female', 'male', 'other')[(k + i) % 3]}" for i in range(3)),)
        stable, candidate = rng.random((2, 3)).tolist()
        both = pair(f"{k}", stable, candidate, groups=groups)
        alone = arm(f"{k}", *stable, candidate=False, unit=k % CLUSTERS, groups=groups)
        truth = Label(request_key("s", f"{k}"), tuple(map(float, rng.random(3) < 0.5)))
        rows += [(msgspec.structs.replace(both, batch=k), truth), (alone, truth)]
    size = len(encode_evidence(folded(rows, found)))
    assert size <= label_bytes(plan, found, {"sex": 3}) <= 3 * size


def test_labels_by_too_many_groups_are_refused_with_what_to_drop(story: Story) -> None:
    wide = {f"s{n}": Slice(path="x", values=tuple(str(k) for k in range(64))) for n in range(6)}
    now = begun(
        story, *(on(metric, name) for name in wide for metric in ("outcome.accuracy", "outcome.recall"))
    )
    service = now.service.model_copy(update={"slices": {**now.service.slices, **wide}})
    with pytest.raises(Conflict, match=r"KiB for its labels, allowed are 1024; drop or coarsen slices"):
        require_affordable(now.policy, service, "r")
    require_affordable(now.policy.model_copy(update={"gates": now.policy.gates[:6]}), service, "r")
