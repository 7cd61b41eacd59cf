"""Operators' acts: what each needs, what it writes, and how it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from accede.controller.rollout import operations
from accede.controller.rollout.actions import Pause
from accede.controller.rollout.machine import apply, paused_hold
from accede.controller.rollout.performing import Seen
from accede.controller.rollout.routing import rollout_route
from accede.errors import Conflict, FileError, NotFound, UsageError
from accede.policies.load import policy_from_canonical
from accede.store.evidence import Evidence
from accede.store.rollouts import Analysis, FrozenConstants, Outcome, Phase, RolloutRecord

if TYPE_CHECKING:
    from accede.policies.policy import RolloutPolicy

    from .conftest import Story

NOW = 2000.0


def freeze_epoch(
    policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None
) -> tuple[dict[str, float], dict[str, tuple[int, int, int]]]:
    return {"mean|": 0.4}, {"latency.p95": (1, 2, 3)}


def seen(story: Story, record: RolloutRecord, analysis: Analysis | None = None, **fields: Any) -> Seen:
    route = rollout_route(story.service, record, story.policy, story.idle())
    return replace(Seen(record, route, story.policy, story.service, {}, (), analysis), **fields)


def paused(story: Story, step: int | None, now: float = NOW, **changes: Any) -> RolloutRecord:
    record = story.at(step, 1000.0, **changes)
    return apply(record, Pause(paused_hold("operator", "paused by anna", story.policy, now)), now)


class TestStart:
    def test_it_opens_the_baseline_with_everything_needed_to_replay(self, story: Story) -> None:
        commit = operations.start(story.service, story.policy, "43", story.idle(), (), "anna", NOW, "trial")
        record = commit.record
        assert record is not None
        assert (record.phase, record.step, record.epoch) == (Phase.BASELINE, None, 0)
        assert policy_from_canonical(record.policy) == story.policy
        assert (record.stable, record.candidate, record.started_by) == ("42", "43", "anna")
        assert commit.expected_version == 0
        assert commit.route is not None
        assert commit.route.plan is not None
        assert commit.route.generation == commit.expected_generation + 1
        (entry,) = commit.audit
        assert (entry.act, entry.actor) == ("start", "anna")
        assert "trial" in entry.reason

    def test_a_second_start_is_refused(self, story: Story) -> None:
        with pytest.raises(Conflict, match="already has the rollout fraud-1"):
            operations.start(story.service, story.policy, "44", story.idle(), (story.at(1),), "anna", NOW)

    def test_an_unknown_version_is_refused_with_those_known(self, story: Story) -> None:
        with pytest.raises(NotFound, match=r"no version '99'; its file names: 42, 43, 44"):
            operations.start(story.service, story.policy, "99", story.idle(), (), "anna", NOW)

    def test_stable_cannot_be_its_own_candidate(self, story: Story) -> None:
        with pytest.raises(Conflict, match="already stable"):
            operations.start(story.service, story.policy, "42", story.idle(), (), "anna", NOW)

    def test_stable_is_what_the_store_serves_not_what_the_file_says(self, story: Story) -> None:
        promoted = msgspec.structs.replace(
            story.idle(), arms=(msgspec.structs.replace(story.idle().stable, version="43"),)
        )
        with pytest.raises(Conflict, match="already stable"):
            operations.start(story.service, story.policy, "43", promoted, (), "anna", NOW)
        record = operations.start(story.service, story.policy, "42", promoted, (), "anna", NOW).record
        assert record is not None
        assert record.stable == "43"

    def test_a_policy_that_does_not_fit_is_refused(self, story: Story) -> None:
        service = story.service.model_copy(update={"slices": {}})
        with pytest.raises(FileError, match="no such slice"):
            operations.start(service, story.policy, "43", story.idle(), (), "anna", NOW)

    def test_every_earlier_try_of_the_same_candidate_counts(self, story: Story) -> None:
        ended = [
            story.at(1, phase=Phase.ROLLED_BACK, id="fraud-1"),
            story.at(1, phase=Phase.PROMOTED, id="fraud-2"),
            story.at(1, phase=Phase.ABORTED, id="fraud-3", candidate_digest="sha256:other"),
        ]
        record = operations.start(story.service, story.policy, "43", story.idle(), ended, "anna", NOW).record
        assert record is not None
        assert (record.attempt, record.id) == (2, "fraud-4")

    def test_a_candidate_is_known_by_its_digest_whatever_its_name(self, story: Story) -> None:
        card = {"digest": "sha256:abc"}
        versions = {
            name: story.service.versions["44"].model_copy(
                update={"card": card, "url": f"http://127.0.0.1:{port}"}
            )
            for name, port in (("43", 1), ("44", 2))
        }
        service = story.service.model_copy(update={"versions": versions})
        assert operations.digest_of(service, "43") == operations.digest_of(service, "44")
        assert operations.digest_of(story.service, "43") != operations.digest_of(story.service, "44")


class TestPauseAndResume:
    def test_a_pause_leaves_traffic_alone_and_has_a_clock(self, story: Story) -> None:
        commit = operations.pause(seen(story, story.at(1)), "anna", "lunch", NOW, freeze_epoch)
        assert commit.route is None
        assert commit.record is not None
        assert commit.record.phase is Phase.PAUSED
        assert commit.record.hold is not None
        assert (commit.record.hold.until, commit.record.hold.action) == (NOW + 3600.0, "rollback")
        assert commit.decision is not None

    def test_pausing_twice_is_refused(self, story: Story) -> None:
        with pytest.raises(Conflict, match="already paused"):
            operations.pause(seen(story, paused(story, 1)), "anna", "", NOW, freeze_epoch)

    def test_resuming_writes_a_new_generation(self, story: Story) -> None:
        at = seen(story, paused(story, 1, now=1100.0))
        commit = operations.resume(at, "anna", "", NOW, freeze_epoch)
        assert commit.record is not None
        assert (commit.record.phase, commit.record.hold) == (Phase.CANARY, None)
        assert commit.record.held_for == NOW - 1100.0
        assert commit.route is not None
        assert commit.route.generation == at.route.generation + 1

    def test_a_deadline_that_has_passed_begins_anew(self, story: Story) -> None:
        commit = operations.resume(seen(story, paused(story, 1, now=1300.0)), "anna", "", NOW, freeze_epoch)
        assert commit.record is not None
        assert (commit.record.step_since, commit.record.held_for) == (NOW, 0.0)

    def test_what_would_pause_again_at_once_is_not_resumed(self, story: Story) -> None:
        harm = story.analysis(odd={(2, "canary"): Outcome.FAIL})
        with pytest.raises(Conflict, match="would pause again"):
            operations.resume(seen(story, paused(story, 1, now=1100.0), harm), "anna", "", NOW, freeze_epoch)

    def test_a_rollout_out_of_time_is_not_resumed(self, story: Story) -> None:
        with pytest.raises(Conflict, match="max_duration"):
            operations.resume(seen(story, paused(story, 1, now=4600.0)), "anna", "", 4700.0, freeze_epoch)

    def test_only_what_is_paused_resumes(self, story: Story) -> None:
        with pytest.raises(Conflict, match="not paused"):
            operations.resume(seen(story, story.at(1)), "anna", "", NOW, freeze_epoch)


class TestPromote:
    def test_a_proven_step_goes_on_without_waiting_for_its_minima(self, story: Story) -> None:
        proven = seen(story, story.at(0, NOW - 1), story.analysis(requests=1))
        commit = operations.promote(proven, "anna", "", NOW, freeze_epoch)
        assert commit.record is not None
        assert (commit.record.phase, commit.record.step, commit.record.override) == (Phase.CANARY, 1, None)
        assert commit.record.epochs[-1].thresholds == {"latency.p95": (1, 2, 3)}
        assert commit.route is not None
        assert [arm.weight for arm in commit.route.arms] == [9_500, 500]

    def test_past_an_unproven_gate_it_needs_a_reason(self, story: Story) -> None:
        unproven = seen(story, story.at(0), story.analysis(odd={(1, "shadow"): Outcome.INCONCLUSIVE}))
        with pytest.raises(UsageError, match="agreement"):
            operations.promote(unproven, "anna", "", NOW, freeze_epoch)

    def test_with_a_reason_it_is_an_override_kept_for_ever(self, story: Story) -> None:
        unproven = seen(story, story.at(0), story.analysis(odd={(1, "shadow"): Outcome.INCONCLUSIVE}))
        commit = operations.promote(unproven, "anna", "known labels", NOW, freeze_epoch)
        assert commit.record is not None
        assert commit.record.override is not None
        assert "known labels" in commit.record.override
        assert "agreement" in commit.record.override
        assert [entry.act for entry in commit.audit] == ["advance", "override"]

    def test_a_proven_harm_is_passed_with_full_only(self, story: Story) -> None:
        harm = seen(story, paused(story, 1), story.analysis(odd={(2, "canary"): Outcome.FAIL}))
        with pytest.raises(Conflict, match="harm is proven"):
            operations.promote(harm, "anna", "I know", NOW, freeze_epoch)
        commit = operations.promote(harm, "anna", "I know", NOW, freeze_epoch, full=True)
        assert commit.record is not None
        assert commit.record.phase is Phase.PROMOTED
        assert commit.record.override is not None

    def test_full_makes_the_candidate_stable(self, story: Story) -> None:
        commit = operations.promote(
            seen(story, story.at(2), story.analysis()), "anna", "", NOW, freeze_epoch, full=True
        )
        assert commit.record is not None
        assert (commit.record.phase, commit.record.override) == (Phase.PROMOTED, None)
        assert commit.route is not None
        assert [(arm.role, arm.version) for arm in commit.route.arms] == [("stable", "43")]

    def test_full_from_the_shadow_is_an_override_of_all_that_the_canary_would_prove(
        self, story: Story
    ) -> None:
        shadow = story.analysis(odd={(0, "canary"): None, (2, "canary"): None, (3, "canary"): None})
        with pytest.raises(UsageError, match="errors: not measured yet"):
            operations.promote(seen(story, story.at(0), shadow), "anna", "", NOW, freeze_epoch, full=True)

    def test_without_any_look_everything_counts_as_unproven(self, story: Story) -> None:
        with pytest.raises(UsageError, match="not measured yet"):
            operations.promote(seen(story, story.at(2)), "anna", "", NOW, freeze_epoch)

    def test_the_baseline_ends_by_itself(self, story: Story) -> None:
        with pytest.raises(Conflict, match="baseline"):
            operations.promote(seen(story, story.at(None)), "anna", "hurry", NOW, freeze_epoch)


class TestAbort:
    @pytest.mark.parametrize("step", [None, 0, 1, 2])
    def test_stable_alone_from_any_step(self, story: Story, step: int | None) -> None:
        for record in (story.at(step), paused(story, step)):
            commit = operations.abort(seen(story, record), "anna", "INC-81", NOW, freeze_epoch)
            assert commit is not None
            assert commit.record is not None
            assert commit.record.phase is Phase.ABORTED
            assert "INC-81" in commit.record.reason
            assert commit.route is not None
            assert [(arm.version, arm.weight) for arm in commit.route.arms] == [("42", 10_000)]

    def test_it_needs_no_file(self, story: Story) -> None:
        assert (
            operations.abort(seen(story, story.at(2), service=None), "anna", "", NOW, freeze_epoch)
            is not None
        )

    def test_aborting_twice_changes_nothing(self, story: Story) -> None:
        again = seen(story, story.at(2, phase=Phase.ABORTED))
        assert operations.abort(again, "anna", "", NOW, freeze_epoch) is None

    @pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.ROLLED_BACK])
    def test_what_has_ended_otherwise_is_not_aborted(self, story: Story, phase: Phase) -> None:
        with pytest.raises(Conflict, match="has ended"):
            operations.abort(seen(story, story.at(2, phase=phase)), "anna", "", NOW, freeze_epoch)
