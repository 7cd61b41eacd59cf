"""Steps that wait for people: who counts, what approvals bind to, what voids them; nothing goes round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accede.controller.rollout import operations
from accede.controller.rollout.actions import (
    Advance,
    Ask,
    HoldError,
    Note,
    Pause,
    Promote,
    Prove,
    Resume,
    RollBack,
    Void,
)
from accede.controller.rollout.approvals import Person, asked, lacking, missing, standing
from accede.controller.rollout.approving import approve
from accede.controller.rollout.binding import digest_of, proven, subject_of
from accede.controller.rollout.machine import apply, decide, paused_hold
from accede.controller.rollout.performing import Seen, change
from accede.controller.rollout.routing import rollout_route
from accede.controller.rollout.signals import Look, Signals
from accede.errors import Conflict, Forbidden
from accede.policies.load import canonical, parse_policy, policy_hash
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import Evidence
from accede.store.rollouts import (
    Analysis,
    FrozenConstants,
    Outcome,
    Phase,
    RolloutRecord,
    Validity,
    decode_record,
    encode_record,
)

from .conftest import POLICY, Story

PASS, FAIL, INCONCLUSIVE, ERROR = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.ERROR
BEGAN = 1000.0
ASKED = 1100.0
ANNA, BEN, CARL = (Person(name, ("model-risk",)) for name in ("anna", "ben", "carl"))
STARTER = ANNA  # conftest's rollouts are started by anna
BY_TWO = "  - {approve: {group: model-risk, count: 2, valid_for: 10m}, deadline: 20m}\n"


def freeze_epoch(
    policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None
) -> tuple[dict[str, float], dict[str, tuple[int, int, int]]]:
    return {"mean|": 0.4}, {"latency.p95": (1, 2, 3)}


class Scene:
    """A rollout that has just come to the step `approve` of its policy, and what is seen of it."""

    def __init__(
        self, story: Story, step: str = BY_TWO, after: str = "canary: 5%", analysis: Analysis | None = None
    ) -> None:
        lines = POLICY.splitlines(keepends=True)
        at = next(n for n, line in enumerate(lines) if after in line) + 1
        policy = parse_policy("".join([*lines[:at], step, *lines[at:]]))
        self.story = replace(story, policy=policy)
        self.policy = policy
        self.service: Any = story.service
        self.analysis = analysis or story.analysis()
        self.now = ASKED
        number = next(n for n, one in enumerate(policy.steps) if one.approve is not None)
        self.record = msgspec.structs.replace(
            self.story.at(number - 1, BEGAN), policy=canonical(policy), policy_hash=policy_hash(policy)
        )
        self.look()

    def seen(self) -> Seen:
        route = rollout_route(self.story.service, self.record, self.policy, self.story.idle())
        return Seen(self.record, route, self.policy, self.service, {}, (), self.analysis)

    def look(self, **fields: Any) -> list[Any]:
        """One look and what it does, as the loop performs it."""
        subject = subject_of(self.service, self.record)
        look = Look(self.analysis, fields.pop("signals", Signals()), subject=subject, **fields)
        actions = decide(self.record, self.policy, look, self.now)
        for action in actions:
            seen = self.seen() if self.service is not None else replace(self.seen(), service=None)
            commit = change(seen, action, self.now, "controller", freeze_epoch)
            assert commit.record is not None
            self.record = commit.record
        return actions

    def approve(self, person: Person, reason: str = "", step: int | None = None) -> None:
        commit = approve(self.seen(), person, reason, self.now, freeze_epoch, number=step)
        if commit is not None:
            assert commit.record is not None
            self.record = commit.record

    def people(self) -> list[str]:
        return [one.by for one in standing(self.record)]


@pytest.fixture
def scene(story: Story) -> Scene:
    return Scene(story)


def refused(act: Callable[[], object], kind: type[Exception], *words: str) -> str:
    with pytest.raises(kind) as problem:
        act()
    for word in words:
        assert word in str(problem.value), str(problem.value)
    return str(problem.value)


class TestWaiting:
    def test_the_step_opens_no_epoch_and_leaves_traffic_as_it_is(self, scene: Scene) -> None:
        assert (scene.record.phase, scene.record.step) == (Phase.CANARY, 2)
        assert [epoch.step for epoch in scene.record.epochs] == [None, 1]
        assert scene.record.step_since == ASKED
        assert scene.record.proven == proven(scene.policy, scene.analysis) != ()
        route = rollout_route(scene.story.service, scene.record, scene.policy, scene.story.idle())
        assert route.candidate is not None
        assert route.candidate.weight == 500

    def test_it_says_what_it_waits_for(self, scene: Scene) -> None:
        (note,) = scene.look()
        assert isinstance(note, Note)
        assert "step 3 of 4: waiting for 2 more approvals of group model-risk, not of anna" in note.reason
        scene.approve(BEN)
        (note,) = scene.look()
        assert "1 more approval of group model-risk" in note.reason

    def test_enough_people_let_it_go_on(self, scene: Scene) -> None:
        scene.approve(BEN, "looks fine")
        scene.approve(CARL)
        (action,) = scene.look()
        assert isinstance(action, Advance)
        assert (scene.record.step, scene.record.epochs[-1].weight, scene.record.proven) == (3, 0.5, ())
        assert [one.by for one in scene.record.approvals] == ["ben", "carl"], "they stay in the record"
        assert not standing(scene.record), "and count in their own step only"

    def test_its_deadline_pauses_with_a_clock(self, scene: Scene) -> None:
        scene.now = ASKED + 1200.0
        (action,) = scene.look()
        assert isinstance(action, Pause)
        assert (action.hold.kind, action.hold.action) == ("inconclusive", "rollback")
        assert "deadline of step 3" in action.reason
        assert "2 more approvals" in action.reason

    def test_without_a_deadline_max_duration_ends_it(self, story: Story) -> None:
        scene = Scene(story, "  - {approve: {group: model-risk}}\n")
        scene.now = BEGAN + 3600.0
        (action,) = scene.look()
        assert isinstance(action, Pause)
        assert "max_duration" in action.reason
        rolls = scene.story.varied(on_inconclusive="rollback").policy
        look = Look(scene.analysis, subject="x")
        scene = Scene(story, "  - {approve: {group: model-risk}}\n")
        assert isinstance(decide(scene.record, rolls, look, BEGAN + 3600.0)[-1], RollBack)

    def test_approvals_in_time_go_before_a_deadline_that_has_passed(self, scene: Scene) -> None:
        scene.now = ASKED + 1100.0
        scene.approve(BEN)
        scene.approve(CARL)
        scene.now = ASKED + 1200.0
        assert isinstance(scene.look()[-1], Advance)

    def test_after_a_shadow_the_shadow_goes_on(self, story: Story) -> None:
        scene = Scene(story, after="shadow: 50%")
        assert (scene.record.phase, scene.record.step, scene.record.epochs[-1].mirrored) == (
            Phase.SHADOW,
            1,
            0.5,
        )
        scene.approve(BEN)
        scene.approve(CARL)
        (action,) = scene.look()
        assert isinstance(action, Advance)
        assert scene.record.phase is Phase.CANARY

    def test_as_the_last_step_it_promotes_only_what_is_proven(self, story: Story) -> None:
        scene = Scene(story, after="canary: 50%")
        assert scene.record.step == 3
        scene.analysis = story.analysis(last=False)
        scene.approve(BEN)
        scene.approve(CARL)
        (note,) = scene.look()
        assert isinstance(note, Note)
        assert "not yet on the last one alone" in note.reason
        assert "approval" not in note.reason
        scene.analysis = story.analysis()
        (action,) = scene.look()
        assert isinstance(action, Promote)
        assert scene.record.phase is Phase.PROMOTED

    def test_two_steps_in_a_row_ask_separately(self, story: Story) -> None:
        scene = Scene(story, "  - {approve: {group: model-risk}}\n  - {approve: {group: law}}\n")
        scene.approve(BEN)
        (action,) = scene.look()
        assert isinstance(action, Ask)
        assert (scene.record.step, scene.record.phase) == (3, Phase.CANARY)
        assert "1 more approval of group law" in scene.look()[0].reason
        late = "is in step 4, so step 3 is not approved"
        refused(lambda: scene.approve(Person("ben", ("law",)), step=3), Conflict, late)
        refused(lambda: scene.approve(BEN), Forbidden, "needs somebody of the group law", "model-risk")
        scene.approve(Person("ben", ("model-risk", "law")), step=4)
        assert isinstance(scene.look()[0], Advance)


class TestWhoCounts:
    @pytest.mark.parametrize(
        ("person", "words"),
        [
            (Person("dora"), ("step 3 needs somebody of the group model-risk", "dora has the groups: none")),
            (Person("dora", ("law", "ops")), ("needs somebody of the group model-risk", "law, ops")),
            (STARTER, ("needs somebody else than anna, who started the rollout",)),
            (Person("dora", known=False), ("by 2 of model-risk", "--tokens")),
        ],
    )
    def test_others_are_refused_by_what_is_needed(
        self, scene: Scene, person: Person, words: tuple[str, ...]
    ) -> None:
        refused(lambda: scene.approve(person), Forbidden, *words)
        assert not scene.record.approvals

    def test_the_starter_may_where_the_policy_says_so(self, story: Story) -> None:
        scene = Scene(story, "  - {approve: {group: model-risk, not_starter: false}}\n")
        scene.approve(STARTER)
        assert isinstance(scene.look()[0], Advance)

    def test_nobody_counts_twice(self, scene: Scene) -> None:
        scene.approve(BEN)
        version = scene.record.version
        assert approve(scene.seen(), BEN, "again", scene.now + 5, freeze_epoch) is None
        assert (scene.people(), scene.record.version) == (["ben"], version)
        assert missing(scene.record, scene.policy, scene.now) == 1
        doubled = msgspec.structs.replace(scene.record, approvals=scene.record.approvals * 2)
        assert missing(doubled, scene.policy, scene.now) == 1, "not even where a record says so"

    @pytest.mark.parametrize(
        ("step", "allowed"),
        [
            ("{approve: {not_starter: false}}", True),
            ("{approve: {}}", False),
            ("{approve: {count: 2, not_starter: false}}", False),
            ("{approve: {group: model-risk, not_starter: false}}", False),
        ],
    )
    def test_without_tokens_only_what_asks_nobody_in_particular(
        self, story: Story, step: str, allowed: bool
    ) -> None:
        scene = Scene(story, f"  - {step}\n")
        stranger = Person("zoe", known=False)
        if allowed:
            scene.approve(stranger)
            assert isinstance(scene.look()[0], Advance)
        else:
            refused(lambda: scene.approve(stranger), Forbidden, "nobody can be told from anybody else")


class TestBinding:
    def test_it_binds_to_the_look_and_the_look_is_kept(self, scene: Scene) -> None:
        commit = approve(scene.seen(), BEN, "RISK-7", scene.now, freeze_epoch)
        assert commit is not None
        assert commit.record is not None
        (approval,) = commit.record.approvals
        assert (approval.by, approval.group, approval.step, approval.epoch) == ("ben", "model-risk", 2, 2)
        assert (approval.at, approval.until, approval.reason) == (ASKED, ASKED + 600.0, "RISK-7")
        assert commit.decision is not None
        assert (commit.decision.number, commit.decision.act) == (approval.number, "approve")
        before = decode_record(commit.decision.before, RolloutRecord)
        assert commit.decision.analysis is not None
        again = digest_of(before, commit.decision.analysis, subject_of(scene.service, before))
        assert again == approval.digest
        (entry,) = commit.audit
        assert (entry.act, entry.actor, entry.detail["digest"]) == ("approve", "ben", approval.digest)
        assert "RISK-7" in entry.reason
        assert commit.route is None

    @pytest.mark.parametrize(
        "changed",
        [
            {"policy_hash": "other"}, {"epoch": 7}, {"step": 1}, {"id": "fraud-2"},
        ],
    )  # fmt: skip
    def test_its_digest_covers_what_it_is_bound_to(self, scene: Scene, changed: dict[str, Any]) -> None:
        subject = subject_of(scene.service, scene.record)
        here = digest_of(scene.record, scene.analysis, subject)
        other = msgspec.structs.replace(scene.record, **changed)
        assert digest_of(other, scene.analysis, subject) != here
        assert digest_of(scene.record, scene.analysis, "other") != here
        verdict = msgspec.structs.replace(scene.analysis.verdicts[0], reason="0.41 pp, margin 1 pp")
        moved = msgspec.structs.replace(scene.analysis, verdicts=(verdict, *scene.analysis.verdicts[1:]))
        assert digest_of(scene.record, moved, subject) != here, "numbers are part of it"

    def test_numbers_that_move_on_void_nothing(self, scene: Scene) -> None:
        scene.approve(BEN)
        verdicts = tuple(msgspec.structs.replace(one, reason="moved") for one in scene.analysis.verdicts)
        scene.analysis = msgspec.structs.replace(scene.analysis, verdicts=verdicts)
        assert isinstance(scene.look()[0], Note)
        assert scene.people() == ["ben"]

    def test_old_records_have_none(self, scene: Scene) -> None:
        old = msgspec.json.decode(encode_record(scene.story.at(1)))
        del old["approvals"], old["proven"]
        assert decode_record(msgspec.json.encode(old), RolloutRecord) == scene.story.at(1)


class TestVoid:
    @pytest.mark.parametrize("outcome", [INCONCLUSIVE, None])
    def test_a_gate_that_loses_its_proof_voids_all_and_nothing_goes_on(
        self, story: Story, scene: Scene, outcome: Outcome | None
    ) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        scene.analysis = story.analysis(odd={(2, "canary"): outcome})
        void, note = scene.look()
        assert isinstance(void, Void)
        assert isinstance(note, Note)
        assert "2 more approvals" in note.reason
        assert "selection_rate" in void.reason
        assert (scene.people(), scene.record.step) == ([], 2)
        scene.analysis = story.analysis()
        assert isinstance(scene.look()[0], Note), "a proof that comes back brings no approval back"

    def test_each_void_is_an_entry_of_the_audit_trail_with_its_reason(
        self, story: Story, scene: Scene
    ) -> None:
        scene.approve(BEN)
        (approval,) = scene.record.approvals
        void = Void(((approval, "errors was proven and is not any more"),))
        commit = change(scene.seen(), void, scene.now, "controller", freeze_epoch)
        (entry,) = commit.audit
        assert (entry.act, entry.actor) == ("void", "controller")
        assert entry.reason == "the approval of ben is void: errors was proven and is not any more"
        assert (entry.detail["by"], entry.detail["digest"]) == ("ben", approval.digest)
        assert (commit.decision, commit.route) == (None, None)

    def test_harm_that_pauses_and_what_cannot_be_measured(self, story: Story, scene: Scene) -> None:
        scene.approve(BEN)
        scene.analysis = story.analysis(odd={(0, "canary"): ERROR})
        void, held = scene.look()
        assert (type(void), type(held)) == (Void, HoldError)
        scene = Scene(story)
        scene.approve(BEN)
        scene.analysis = story.analysis(odd={(2, "canary"): FAIL})
        void, paused = scene.look()
        assert (type(void), type(paused)) == (Void, Pause)

    def test_time(self, scene: Scene) -> None:
        scene.approve(BEN)
        scene.now += 300.0
        scene.approve(CARL)
        (version,) = {scene.record.version}
        scene.record = msgspec.structs.replace(scene.record, step=2, version=version)
        scene.now += 299.0
        assert missing(scene.record, scene.policy, scene.now) == 0
        scene.now += 1.0
        void, note = scene.look()
        assert isinstance(void, Void)
        assert "the approval of ben is void: it was valid for 600 s" in void.reason
        assert isinstance(note, Note)
        assert scene.people() == ["carl"]
        scene.approve(BEN)
        assert isinstance(scene.look()[0], Advance), "given again it counts again"

    @pytest.mark.parametrize("change", [{"url": "http://127.0.0.1:9"}, {"card": {"trained_on": "x"}}])
    @pytest.mark.parametrize("version", ["42", "43"])
    def test_an_address_or_a_card(self, scene: Scene, change: dict[str, Any], version: str) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        changed = scene.service.versions[version].model_copy(update=change)
        scene.service = scene.service.model_copy(
            update={"versions": {**scene.service.versions, version: changed}}
        )
        void, note = scene.look()
        assert isinstance(void, Void)
        assert "an address or the card of version 42 or 43 has changed" in void.reason
        assert isinstance(note, Note)

    def test_another_versions_address_does_not_matter(self, scene: Scene) -> None:
        scene.approve(BEN)
        other = scene.service.versions["44"].model_copy(update={"url": "http://127.0.0.1:9"})
        scene.service = scene.service.model_copy(update={"versions": {**scene.service.versions, "44": other}})
        assert isinstance(scene.look()[0], Note)
        assert scene.people() == ["ben"]

    @pytest.mark.parametrize("gone", ["file", "version"])
    def test_what_cannot_be_compared_is_kept_and_lets_nothing_go_on(self, scene: Scene, gone: str) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        versions = {"42": scene.service.versions["42"]}
        scene.service = None if gone == "file" else scene.service.model_copy(update={"versions": versions})
        (note,) = scene.look()
        assert isinstance(note, Note)
        assert "the file of service 'fraud', which cannot be read" in note.reason
        assert scene.people() == ["ben", "carl"]

    def test_a_controller_that_cannot_look_keeps_them_and_holds(self, scene: Scene) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        scene.analysis = Analysis(scene.now, (), ())
        (held,) = scene.look(broken="KeyError")
        assert isinstance(held, HoldError)
        assert scene.people() == ["ben", "carl"]

    def test_in_a_pause_too_and_resuming_gives_none_back(self, story: Story, scene: Scene) -> None:
        scene.approve(BEN)
        scene.record = apply(
            scene.record, Pause(paused_hold("operator", "lunch", scene.policy, scene.now)), scene.now
        )
        refused(lambda: scene.approve(CARL), Conflict, "is paused (lunch); resume it, then approve")
        scene.analysis = story.analysis(odd={(0, "canary"): INCONCLUSIVE})
        assert isinstance(scene.look()[0], Void)
        scene.record = apply(scene.record, Resume("back"), scene.now)
        assert (scene.record.phase, scene.record.step, scene.people()) == (Phase.CANARY, 2, [])

    def test_a_pause_without_news_gives_them_back(self, scene: Scene) -> None:
        scene.approve(BEN)
        scene.record = apply(
            scene.record, Pause(paused_hold("operator", "lunch", scene.policy, scene.now)), scene.now
        )
        assert isinstance(scene.look()[0], Note)
        scene.record = apply(scene.record, Resume("back"), scene.now)
        scene.approve(CARL)
        assert isinstance(scene.look()[0], Advance)


class TestEvidenceAndApprovalAtOneMoment:
    """A gate turns while somebody approves: whichever is written first, nothing goes on."""

    @pytest.mark.parametrize("outcome", [INCONCLUSIVE, FAIL, ERROR, None])
    def test_the_approval_comes_first(self, story: Story, scene: Scene, outcome: Outcome | None) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        scene.analysis = story.analysis(odd={(0, "canary"): outcome})
        kinds = [type(action) for action in scene.look()]
        assert Advance not in kinds
        assert scene.record.step == 2

    @pytest.mark.parametrize("outcome", [INCONCLUSIVE, FAIL, ERROR, None])
    def test_the_evidence_comes_first(self, story: Story, scene: Scene, outcome: Outcome | None) -> None:
        scene.approve(BEN)
        scene.analysis = story.analysis(odd={(0, "canary"): outcome})
        refused(lambda: scene.approve(CARL), Conflict, "errors")
        assert "carl" not in scene.people()

    def test_a_gate_proven_later_is_missed_as_well(self, story: Story) -> None:
        scene = Scene(story, analysis=story.analysis(odd={(0, "canary"): INCONCLUSIVE}))
        scene.approve(BEN)
        scene.analysis = story.analysis()
        prove, _ = scene.look()
        assert isinstance(prove, Prove)
        assert set(scene.record.proven) == set(proven(scene.policy, scene.analysis))
        assert isinstance(scene.look()[0], Note), "once"
        scene.analysis = story.analysis(odd={(0, "canary"): INCONCLUSIVE})
        refused(lambda: scene.approve(CARL), Conflict, "was proven and is not any more")
        assert isinstance(scene.look()[0], Void)

    def test_what_is_not_proven_yet_can_be_approved_where_the_step_needs_no_proof(self, story: Story) -> None:
        scene = Scene(story, analysis=story.analysis(INCONCLUSIVE))
        scene.approve(BEN)
        scene.approve(CARL)
        assert isinstance(scene.look()[0], Advance)

    def test_lost_evidence_is_not_approved(self, story: Story, scene: Scene) -> None:
        lost = Validity(check="loss", outcome=ERROR, reason="2% of the facts are lost")
        scene.analysis = story.analysis(validity=(lost,))
        refused(lambda: scene.approve(BEN), Conflict, "2% of the facts are lost")
        assert not scene.people()

    def test_harm_and_routers_end_it_whoever_has_approved(self, story: Story, scene: Scene) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        (action,) = scene.look(signals=Signals(tripped="the breaker tripped"))
        assert isinstance(action, RollBack)


class TestNothingGoesRoundIt:
    def promote(self, scene: Scene, **flags: Any) -> Any:
        return operations.promote(scene.seen(), "olga", "now", scene.now, freeze_epoch, **flags).record

    def test_promote_does_not_stand_in_for_approvals(self, scene: Scene) -> None:
        scene.approve(BEN)
        message = refused(lambda: self.promote(scene), Conflict, "1 more approval of group model-risk")
        assert "`accede approve fraud`, or abort it" in message
        refused(lambda: self.promote(scene, full=True), Conflict, "1 more approval")

    def test_nor_does_a_promotion_to_the_end_from_before_it(self, story: Story, scene: Scene) -> None:
        for step in (None, 0, 1):
            scene.record = scene.story.at(step)
            refused(lambda: self.promote(scene, full=True), Conflict, "step 3 has not been approved")
        opened = self.promote(scene)
        assert (opened.step, opened.epoch, opened.proven) == (
            2,
            scene.record.epoch,
            proven(scene.policy, scene.analysis),
        )

    def test_void_ones_do_not_count_there_either(self, story: Story, scene: Scene) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        scene.analysis = story.analysis(odd={(0, "canary"): INCONCLUSIVE})
        refused(lambda: self.promote(scene), Conflict, "was proven and is not any more")
        scene.analysis = story.analysis()
        scene.now += 600.0
        refused(lambda: self.promote(scene), Conflict, "2 more approvals")

    def test_an_override_into_the_step_is_kept_as_one(self, story: Story, scene: Scene) -> None:
        scene.record = scene.story.at(1)
        scene.analysis = story.analysis(odd={(0, "canary"): ERROR})
        opened = self.promote(scene)
        assert opened.step == 2
        assert "olga: now (past" in opened.override

    def test_with_all_of_them_it_may_go_on_by_hand(self, scene: Scene) -> None:
        scene.approve(BEN)
        scene.approve(CARL)
        assert self.promote(scene).step == 3
        assert self.promote(scene, full=True).phase is Phase.PROMOTED

    def test_from_a_pause_it_is_a_decision_to_routers_that_returned_to_stable(self, scene: Scene) -> None:
        before = scene.story.at(1)
        hold = paused_hold("unattended", "a router was unattended", scene.policy, scene.now)
        scene.record = apply(before, Pause(hold), scene.now)
        seen = scene.seen()
        commit = operations.promote(seen, "olga", "", scene.now, freeze_epoch)
        assert commit.record is not None
        assert (commit.record.phase, commit.record.step, commit.record.hold) == (Phase.CANARY, 2, None)
        assert commit.route is not None
        assert commit.route.generation == seen.route.generation + 1

    def test_where_nothing_waits_nothing_is_approved(self, story: Story, scene: Scene) -> None:
        waiting = scene.record
        for record, words in (
            (scene.story.at(None), "step 3 will"),
            (scene.story.at(1), "step 3 will"),
            (scene.story.at(3), "its policy asks for none"),
            (msgspec.structs.replace(waiting, phase=Phase.ABORTED), "has ended: aborted"),
        ):
            scene.record = record
            refused(lambda: scene.approve(BEN), Conflict, words)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_happens_it_goes_on_only_by_enough_valid_approvals_at_that_look(
    story: Story, data: st.DataObject
) -> None:
    scene = Scene(story)
    people = [
        Person(name, groups) for name in ("anna", "ben", "carl", "dora") for groups in ((), ("model-risk",))
    ]
    for _ in range(data.draw(st.integers(1, 14))):
        scene.now += data.draw(st.sampled_from((1.0, 200.0)))
        what = data.draw(st.sampled_from(("approve", "approve", "evidence", "look", "look")))
        if what == "approve":
            try:
                scene.approve(data.draw(st.sampled_from(people)))
            except (Conflict, Forbidden):
                continue
        elif what == "evidence":
            gate = data.draw(st.sampled_from(((0, "canary"), (2, "canary"), (1, "shadow"))))
            scene.analysis = story.analysis(
                odd={gate: data.draw(st.sampled_from((PASS, INCONCLUSIVE, ERROR)))}
            )
        else:
            before = scene.record
            actions = scene.look()
            if any(isinstance(action, Advance) for action in actions):
                by = {one.by for one in standing(before) if scene.now < one.until}
                assert len(by) >= 2
                assert by <= {"ben", "carl", "dora"}
                assert all(verdict.outcome is PASS for verdict in scene.analysis.verdicts)
                return
            if scene.record.phase is not Phase.CANARY:
                return
        assert scene.record.step == 2
        assert asked(scene.record, scene.policy) is not None
        assert len(standing(scene.record)) == len({one.by for one in standing(scene.record)})
        assert bool(lacking(scene.record, scene.policy, scene.now)) == (
            missing(scene.record, scene.policy, scene.now) > 0
        )
