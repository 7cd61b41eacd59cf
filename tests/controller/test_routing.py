"""Routes and measurement plans: what routers are told in each phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from accede.controller.rollout.measuring import (
    baseline_requests,
    measurement_plan,
    require_affordable,
    sliced_metrics,
)
from accede.controller.rollout.routing import (
    ended_route,
    idle_route,
    renewed_route,
    rollout_route,
    same_route,
)
from accede.errors import Conflict
from accede.policies.policy import Gate
from accede.policies.service import Slice
from accede.store.evidence import WIRE, ArmCounts, Evidence
from accede.store.measurement import LatencyThresholds
from accede.store.rollouts import FrozenConstants, Phase

if TYPE_CHECKING:
    from .conftest import Story


class TestIdle:
    def test_stable_is_alone_and_nothing_is_measured(self, story: Story) -> None:
        route = story.idle()
        assert [(arm.role, arm.version, arm.weight) for arm in route.arms] == [("stable", "42", 10_000)]
        assert (route.plan, route.mirrors, route.breaker, route.salt) == (None, (), None, None)
        assert route.generation == 1

    def test_the_file_says_how_to_reach_and_bound_it(self, story: Story) -> None:
        route = story.idle()
        assert (route.path, route.protocol, route.deadline) == ("/v1/models/fraud", "tensorflow-serving", 2.0)
        assert route.stable.addresses == ("http://127.0.0.1:8501",)
        assert route.stable.headers == (("x-accede-training-data", "transactions-2026-02"),)

    def test_a_version_the_file_forgot_keeps_its_address(self, story: Story) -> None:
        stored = msgspec.structs.replace(
            story.idle(), arms=(msgspec.structs.replace(story.idle().stable, version="41"),)
        )
        route = idle_route(story.service, "41", stored)
        assert route.stable.version == "41"
        assert route.generation == 2

    def test_a_version_nobody_knows_is_refused(self, story: Story) -> None:
        with pytest.raises(Conflict, match="version '40' is unknown; its file names 42, 43, 44"):
            idle_route(story.service, "40", None)

    def test_a_card_no_header_can_carry_gives_no_header(self, story: Story) -> None:
        version = story.service.versions["42"].model_copy(update={"card": {"trained_on": "a\r\nx: b"}})
        service = story.service.model_copy(update={"versions": {"42": version}})
        assert idle_route(service, "42", None).stable.headers == ()


class TestInARollout:
    def test_the_baseline_is_stable_alone_with_the_candidate_at_hand(self, story: Story) -> None:
        route = rollout_route(story.service, story.at(None), story.policy, story.idle())
        assert [(arm.role, arm.version, arm.weight) for arm in route.arms] == [
            ("stable", "42", 10_000),
            ("candidate", "43", 0),
        ]
        assert route.mirrors == ()
        assert route.plan is not None
        assert (route.plan.stage, route.plan.epoch, route.plan.rollout) == ("baseline", 0, "fraud-1")

    def test_a_shadow_step_mirrors_its_share_and_answers_nobody(self, story: Story) -> None:
        route = rollout_route(story.service, story.at(0), story.policy, story.idle())
        assert [arm.weight for arm in route.arms] == [10_000, 0]
        (mirror,) = route.mirrors
        assert (mirror.version, mirror.rate, mirror.deadline) == ("43", 500_000, 2.0)

    def test_a_canary_step_sets_the_weight_in_basis_points(self, story: Story) -> None:
        route = rollout_route(story.service, story.at(1), story.policy, story.idle())
        assert [arm.weight for arm in route.arms] == [9_500, 500]
        assert route.mirrors == ()
        assert route.breaker is not None
        assert (route.breaker.share, route.unattended) == (0.5, 900.0)

    def test_the_salt_stays_over_the_steps(self, story: Story) -> None:
        salts = {
            rollout_route(story.service, story.at(n), story.policy, story.idle()).salt
            for n in (None, 0, 1, 2)
        }
        assert salts == {"fraud/fraud-1"}

    def test_a_service_that_writes_is_never_mirrored(self, story: Story) -> None:
        service = story.service.model_copy(update={"side_effects": "writes"})
        with pytest.raises(Conflict, match="side_effects is writes"):
            rollout_route(service, story.at(0), story.policy, story.idle())

    def test_what_is_measured_stays_when_the_file_changes_and_addresses_follow(self, story: Story) -> None:
        begun = rollout_route(story.service, story.at(None), story.policy, story.idle())
        version = story.service.versions["43"].model_copy(update={"url": "http://127.0.0.1:9999"})
        changed = story.service.model_copy(
            update={
                "versions": story.service.versions | {"43": version},
                "slices": {},
                "unit": story.service.unit.model_copy(update={"header": "x-user-id"}),
                "limits": story.service.limits.model_copy(update={"deadline": 9.0}),
            }
        )
        route = rollout_route(changed, story.at(1), story.policy, begun)
        assert route.candidate is not None
        assert route.candidate.addresses == ("http://127.0.0.1:9999",)
        assert begun.plan is not None
        assert route.plan is not None
        assert route.plan.extraction == begun.plan.extraction
        assert (route.plan.sticky, route.unit_header, route.deadline) == (False, None, 2.0)
        assert route.plan.account_after == begun.plan.account_after

    def test_the_end_leaves_the_right_version_alone(self, story: Story) -> None:
        route = rollout_route(story.service, story.at(2), story.policy, story.idle())
        back = ended_route(story.at(2, phase=Phase.ROLLED_BACK), route)
        assert [(arm.role, arm.version, arm.weight) for arm in back.arms] == [("stable", "42", 10_000)]
        on = ended_route(story.at(2, phase=Phase.PROMOTED), route)
        assert [(arm.role, arm.version, arm.weight) for arm in on.arms] == [("stable", "43", 10_000)]
        for ended in (back, on):
            assert (ended.plan, ended.mirrors, ended.salt, ended.breaker) == (None, (), None, None)
            assert ended.generation == route.generation + 1

    def test_a_renewed_route_differs_in_its_generation_alone(self, story: Story) -> None:
        route = story.idle()
        renewed = renewed_route(route)
        assert renewed.generation == route.generation + 1
        assert same_route(route, renewed)
        assert not same_route(route, msgspec.structs.replace(renewed, deadline=1.0))


class TestPlan:
    def test_the_baseline_takes_the_declared_range_and_no_constants(self, story: Story) -> None:
        record = story.at(None)
        plan = measurement_plan(record, story.policy, story.service, record.epochs[0], None)
        assert plan.limits == (0.0, 1.0)
        assert (plan.thresholds, plan.edges, plan.classes) == ((), (), ())
        assert (plan.batch, plan.account_after) == (5.0, 2.0)

    def test_a_step_takes_what_was_frozen(self, story: Story, constants: FrozenConstants) -> None:
        record = story.at(1)
        epoch = msgspec.structs.replace(record.epochs[-1], thresholds={"latency.p95": (400, 410, 420)})
        plan = measurement_plan(record, story.policy, story.service, epoch, constants)
        assert plan.thresholds == (LatencyThresholds("latency.p95", 400, 410, 420),)
        assert plan.edges == constants.edges
        assert plan.limits == constants.limits

    def test_the_protocol_says_where_predictions_are(self, story: Story) -> None:
        record = story.at(None)
        plan = measurement_plan(record, story.policy, story.service, record.epochs[0], None)
        assert plan.extraction is not None
        assert (plan.extraction.path, plan.extraction.agree_within) == ("", 0.05)
        assert plan.extraction.selected is not None
        assert (plan.extraction.selected.operator, plan.extraction.selected.operand) == (">=", 0.5)
        (sliced,) = plan.extraction.slices
        assert (sliced.name, sliced.path, sliced.values) == ("sex", "instances[*].sex", ("female", "male"))

    def test_json_without_a_path_has_no_prediction(self, story: Story) -> None:
        service = story.service.model_copy(update={"protocol": "json"})
        record = story.at(None)
        assert measurement_plan(record, story.policy, service, record.epochs[0], None).extraction is None

    def test_slices_are_kept_for_the_series_a_gate_asks_for(self, story: Story) -> None:
        assert sliced_metrics(story.policy, story.service) == {"selected": ("sex",)}
        twice = story.varied(
            gates=(
                *story.policy.gates,
                Gate(metric="selection_rate", by="sex"),
                Gate(metric="prediction.mean", by="sex"),
                Gate(metric="errors", by="age"),
            )
        )
        assert sliced_metrics(twice.policy, twice.service) == {
            "selected": ("sex",),
            "mean": ("sex",),
            "errors": ("age",),
        }

    def test_evidence_that_would_grow_too_large_is_refused_with_what_to_drop(self, story: Story) -> None:
        wide = {
            f"s{n}": Slice(path="instances[*].x", values=tuple(str(k) for k in range(64))) for n in range(20)
        }
        service = story.service.model_copy(update={"slices": wide})
        gates = tuple(
            Gate(metric=metric, by=name)
            for name in wide
            for metric in ("errors", "selection_rate", "prediction.mean")
        )
        with pytest.raises(Conflict, match="drop or coarsen slices"):
            require_affordable(story.varied(gates=gates).policy, service, "r")
        require_affordable(story.policy, story.service, "r")

    def test_baseline_requests_leave_out_those_without_a_unit(self) -> None:
        arms = {"stable": ArmCounts(accounted=120, unassignable=20)}
        evidence = Evidence(WIRE, "fraud", "fraud-1", 0, "*", 0.0, 0.0, arms=arms)
        assert baseline_requests(evidence) == 100
        assert baseline_requests(None) == 0
