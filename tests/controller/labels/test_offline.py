"""Attributes that only labels tell: they reach no router, and small groups of them are told to nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from accede.controller.analyse import analyse
from accede.controller.labels.feedback import FeedbackRequest, take
from accede.controller.labels.folding import fold_mature, meaning_of
from accede.controller.rollout.routing import rollout_route
from accede.errors import FileError, UsageError
from accede.policies.load import parse_service
from accede.policies.pair_rules import check_pair
from accede.policies.policy import Gate, Labels
from accede.policies.quantities import Margin
from accede.store.evidence import SeriesKey
from accede.store.labels import ARM, Prediction, request_key
from accede.store.rollouts import Outcome, Verdict
from accede.store.routes import encode_route
from accede.store.sqlite import SqliteStore
from tests.controller.conftest import SERVICE
from tests.controller.test_analysis import CONSTANTS, NOW, Scene, policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controller.conftest import Story

OFFLINE = (
    SERVICE.replace("slices:\n", "slices:\n  origin: {from: labels, values: [northern, southern]}\n")
    + "outcome: {type: binary}\n"
)
GATE = Gate(
    metric="outcome.accuracy", by="origin", max_decrease=Margin(value=0.02, unit="pp"),
    labels=Labels(mature_after=60.0),
)  # fmt: skip


@pytest.fixture
def offline(story: Story) -> Story:
    given = type(story)(parse_service(OFFLINE), story.policy)
    return given.varied(gates=(*story.policy.gates, GATE))


def test_routers_are_told_nothing_of_it(offline: Story) -> None:
    route = rollout_route(offline.service, offline.at(1), offline.policy, offline.idle())
    told = encode_route(route)
    assert b"origin" not in told
    assert b"northern" not in told
    assert route.plan is not None
    assert route.plan.extraction is not None
    assert [one.name for one in route.plan.extraction.slices] == ["sex"]
    found = meaning_of(offline.policy, route.plan, None)
    assert found is not None
    assert found.sliced["outcome.accuracy"] == ("origin",)


def test_it_is_joined_from_labels_and_never_logged(offline: Story, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "accede.db")
    plan = rollout_route(offline.service, offline.at(1), offline.policy, offline.idle()).plan
    assert plan is not None
    found = meaning_of(offline.policy, plan, None)
    assert found is not None
    keys = [request_key("fraud", f"{k}") for k in range(4)]
    store.labels.publish_predictions(
        "fraud",
        [Prediction(key, ARM, "r1", 2, 1.0, 1e12, k % 2, 0, 0, ((0.9,),)) for k, key in enumerate(keys)],
    )
    sent = [
        {"request_id": f"{k}", "value": 1, "groups": {"origin": ("northern", "southern")[k // 2]}}
        for k in range(4)
    ]
    wrong = FeedbackRequest.model_validate(
        {"labels": [{"request_id": "9", "value": 1, "groups": {"origin": "martian"}}]}
    )
    with capture_logs() as logs:
        take(store, offline.service, FeedbackRequest.model_validate({"labels": sent}), 5.0)
        with pytest.raises(UsageError) as refused:
            take(store, offline.service, wrong, 5.0)
        fold_mature(store, "fraud", "r1", found, 10.0, 10.0)
    assert logs == []
    assert "martian" not in str(refused.value)
    (sums,) = store.evidence("fraud", "r1")
    for arm in ("candidate", "stable"):
        for group in ("origin=northern", "origin=southern"):
            assert sum(sums.series[SeriesKey(arm, group, "outcome.accuracy")].n) == 1.0
    store.close()


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        (("{from: labels, values", "{from: labels, path: x, values"), "slices.origin.path", "feedback tells"),
        (("{from: labels, values", "{from: requests, values"), "slices.origin.from", "labels"),
        (("sex: {", "both: {cross: [origin, sex]}\n  sex: {"), "slices.both.cross[0]", "is told by labels"),
        (("sex: {", "both: {cross: [sex, sex], from: labels}\n  sex: {"), "slices.both.from", "remove"),
    ],
)
def test_what_does_not_fit_is_refused(change: tuple[str, str], key: str, message: str) -> None:
    with pytest.raises(FileError) as refused:
        parse_service(OFFLINE.replace(*change))
    assert any(one.key == key and message in one.message for one in refused.value.problems), str(
        refused.value
    )


def test_only_gates_on_labels_can_be_by_it(offline: Story) -> None:
    assert check_pair(offline.service, offline.policy) == ()
    early = offline.policy.model_copy(
        update={"gates": (*offline.policy.gates, Gate(metric="errors", by="origin"))}
    )
    (problem,) = check_pair(offline.service, early)
    assert problem.message.startswith("only labels tell origin, and errors does not wait for them")
    pooled = offline.policy.model_copy(update={"gates": (GATE.model_copy(update={"small_slices": "pool"}),)})
    (problem,) = check_pair(offline.service, pooled)
    assert problem.message.startswith(
        "only labels tell origin, so nobody knows which of its groups are small"
    )


# --- small groups ------------------------------------------------------------------------------------------

BY_SEX: dict[str, Any] = {
    "metric": "outcome.accuracy", "by": "sex", "max_decrease": "2pp", "in": "canary",
    "labels": {"mature_after": "1h", "min_group": 20},
}  # fmt: skip


def labelled(scene: Scene, group: str, candidate: float, stable: float, right: float = 0.9) -> Scene:
    for arm, n in (("candidate", candidate), ("stable", stable)):
        for metric, y in (("outcome.accuracy", n * right), ("labelled", n)):
            scene.put(3, arm, metric, [n], [y], group=group)  # type: ignore[arg-type]
    return scene


def verdict(scene: Scene, gate: dict[str, Any] = BY_SEX) -> Verdict:
    (found,) = scene.analysis(policy(gate)).verdicts
    return found


def test_a_small_group_is_told_without_any_number_and_holds() -> None:
    scene = labelled(labelled(Scene(), "sex=female", 30000.0, 30000.0), "sex=male", 19.0, 9000.0)
    got = verdict(scene)
    assert got.outcome is Outcome.INCONCLUSIVE
    (male,) = [one for one in got.findings if one.slice == "sex=male"]
    numbers = (male.estimate, male.low, male.high, male.log_e_harm, male.log_e_safe, male.progress)
    assert numbers == (None,) * 6
    assert (male.n_candidate, male.n_stable) == (0.0, 0.0)
    assert male.reason.endswith("fewer than 20 labels, so nothing of this group is told")
    assert b"19" not in msgspec.json.encode(male)
    (female,) = [one for one in got.findings if one.slice == "sex=female"]
    assert female.outcome is Outcome.PASS
    silent = analyse(scene.record(), policy(BY_SEX), scene.evidence, (), NOW, intervals=False, told=False)
    assert silent.verdicts[0].outcome is Outcome.INCONCLUSIVE


def test_nor_is_its_size_told_where_a_check_holds_it() -> None:
    scene = labelled(Scene(), "sex=male", 7.0, 9000.0)
    for arm, share in (("candidate", 0.5), ("stable", 0.9)):
        scene.put(3, arm, "labelled", [9000.0], [9000.0 * share])  # type: ignore[arg-type]
    (male,) = [one for one in verdict(scene).findings if one.slice == "sex=male"]
    assert "have a label than of stable's" in male.reason
    assert "7 labels" not in male.reason


def test_a_group_is_told_from_its_least_size_on() -> None:
    scene = labelled(Scene(), "sex=male", 20.0, 20.0)
    (male,) = [one for one in verdict(scene).findings if one.slice == "sex=male"]
    assert male.n_candidate == 20.0
    assert "20 labels of 20 mature predictions" in male.reason


def test_pairs_and_coverage_of_small_groups_are_not_told_either() -> None:
    pairs = {**BY_SEX, "in": "shadow"}
    scene = Scene(step=0).paired("outcome.accuracy", 1.0, 0.0, 0.1, clusters=19, group="sex=male")
    assert all(one.estimate is None for one in verdict(scene, pairs).findings)
    inside = {
        "metric": "uncertainty.coverage", "by": "sex", "min": "90%", "in": "canary",
        "labels": {"mature_after": "1h"},
    }  # fmt: skip
    small = Scene().put(3, "candidate", "uncertainty.coverage", [9.0], [9.0], group="sex=male")
    assert all(one.estimate is None for one in verdict(small, inside).findings)


def test_broken_sums_of_a_small_group_are_an_error() -> None:
    scene = labelled(Scene(), "sex=male", 5.0, 5.0).put(
        3, "candidate", "outcome.accuracy", [5.0], [9.0], group="sex=male"
    )
    assert verdict(scene).outcome is Outcome.ERROR
    assert CONSTANTS.groups["sex=male"] == 0.5
