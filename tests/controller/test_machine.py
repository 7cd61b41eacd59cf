"""The state machine: what each phase does in each situation, and what no sequence of looks can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accede.controller.rollout.actions import (
    Abort,
    Action,
    Advance,
    HoldError,
    Note,
    Pause,
    Promote,
    Release,
    Resume,
    RollBack,
)
from accede.controller.rollout.machine import (
    TRANSITIONS,
    apply,
    check,
    decide,
    diagram,
    may_freeze,
    paused_hold,
)
from accede.controller.rollout.signals import Look, Signals, read_signals
from accede.errors import Conflict
from accede.policies.quantities import Clock
from accede.store.rollouts import (
    EpochRecord,
    FrozenConstants,
    Hold,
    Outcome,
    Phase,
    ReplicaReport,
    RolloutRecord,
    Validity,
)

if TYPE_CHECKING:
    from .conftest import Story

PASS, FAIL, INCONCLUSIVE, ERROR = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.ERROR
POOR = Validity(check="coverage", outcome=INCONCLUSIVE, reason="80% paired")
LOSS = Validity(check="loss", outcome=ERROR, reason="2% of the facts are lost")
BEGAN = 1000.0
LATER = BEGAN + 25.0  # every `for` of the policy is over, no deadline is
DEADLINE = BEGAN + 301.0
OVER = BEGAN + 3601.0  # max_duration


def only(actions: list[Action]) -> Action:
    assert len(actions) == 1, actions
    return actions[0]


# (name, step, now, look's fields, odd verdicts, expected action, what its reason says)
SITUATIONS: list[tuple[str, int | None, float, dict[str, Any], type, str]] = [
    ("baseline waits for requests", None, LATER, {"baseline_requests": 7}, Note, "93 more requests"),
    ("baseline waits for time", None, BEGAN + 5, {"baseline_requests": 500}, Note, "5 s more"),
    ("baseline waits for what is not ready", None, LATER,
     {"baseline_requests": 500, "not_ready": "too few labels"}, Note, "too few labels"),
    ("baseline freezes", None, LATER, {"baseline_requests": 500, "frozen": True}, Advance, "frozen"),
    ("baseline does not freeze early", None, BEGAN + 5,
     {"baseline_requests": 500, "frozen": True}, Note, "5 s more"),
    ("baseline without traffic ends", None, OVER, {}, Pause, "max_duration"),
    ("baseline frozen too late does not go on", None, OVER,
     {"baseline_requests": 500, "frozen": True}, Pause, "max_duration"),
    ("baseline that cannot be measured", None, LATER,
     {"baseline_requests": 500, "frozen": True, "validity": (LOSS,)}, HoldError, "2% of the facts"),
    ("shadow proven", 0, LATER, {}, Advance, "step 1 of 3 is done"),
    ("shadow too short", 0, BEGAN + 5, {}, Note, "15 s more"),
    ("shadow with few pairs", 0, LATER, {"requests": 49}, Note, "1 more pairs"),
    ("shadow with one gate unproven", 0, LATER, {"odd": {(1, "shadow"): INCONCLUSIVE}}, Note, "agreement"),
    ("shadow with one gate unmeasured", 0, LATER, {"odd": {(1, "shadow"): None}}, Note, "not measured"),
    ("shadow does not wait for canary gates", 0, LATER,
     {"odd": {(0, "canary"): None, (2, "canary"): INCONCLUSIVE, (3, "canary"): None}}, Advance, "done"),
    ("shadow harm rolls back", 0, LATER, {"odd": {(1, "shadow"): FAIL}}, RollBack, "agreement: is fail"),
    ("shadow harm that pauses", 0, LATER, {"odd": {(2, "shadow"): FAIL}}, Pause, "selection_rate"),
    ("a gate that decides nothing may fail", 0, LATER, {"odd": {(4, "shadow"): FAIL}}, Advance, "done"),
    ("a gate that decides nothing may break", 0, LATER, {"odd": {(4, "shadow"): ERROR}}, Advance, "done"),
    ("shadow gate unmeasurable", 0, LATER, {"odd": {(1, "shadow"): ERROR}}, HoldError, "agreement"),
    ("shadow past its deadline", 0, DEADLINE, {"odd": {(1, "shadow"): INCONCLUSIVE}}, Pause, "deadline"),
    ("shadow proven just at its deadline", 0, DEADLINE, {}, Advance, "done"),
    ("shadow past max_duration", 0, OVER, {}, Pause, "max_duration"),
    ("lost evidence holds", 0, LATER, {"validity": (LOSS,)}, HoldError, "2% of the facts"),
    ("failed sample ratio holds", 1, LATER,
     {"validity": (Validity(check="sample_ratio", outcome=FAIL, reason="9:1"),)}, HoldError, "9:1"),
    ("poor coverage of a shadow waits", 0, LATER, {"validity": (POOR,)}, Note, "80% paired"),
    ("poor coverage is the affair of shadow gates in a canary", 1, LATER,
     {"validity": (POOR,)}, Advance, "done"),
    ("harm is stronger than lost evidence", 0, LATER,
     {"odd": {(1, "shadow"): FAIL}, "validity": (LOSS,)}, RollBack, "agreement"),
    ("rollback is stronger than pause", 1, LATER,
     {"odd": {(2, "canary"): FAIL, (0, "canary"): FAIL}}, RollBack, "errors"),
    ("harm that pauses is stronger than an error", 1, LATER,
     {"odd": {(2, "canary"): FAIL}, "validity": (LOSS,)}, Pause, "selection_rate"),
    ("first canary needs no proof", 1, LATER, {"outcome": INCONCLUSIVE}, Advance, "step 2 of 3"),
    ("first canary needs requests", 1, LATER, {"requests": 3}, Note, "47 more candidate requests"),
    ("first canary with harm", 1, LATER, {"odd": {(0, "canary"): FAIL}}, RollBack, "errors"),
    ("no-harm gate with harm", 1, LATER, {"odd": {(3, "canary"): FAIL}}, RollBack, "latency"),
    ("no-harm gate unmeasurable", 1, LATER, {"odd": {(3, "canary"): ERROR}}, HoldError, "latency"),
    ("a verdict where its gate has no say", 1, LATER, {"odd": {(0, "shadow"): FAIL}}, Advance, "done"),
    ("last canary promotes", 2, LATER, {}, Promote, "every gate is proven"),
    ("last canary with a no-harm gate undecided", 2, LATER,
     {"odd": {(3, "canary"): INCONCLUSIVE}}, Promote, "every gate"),
    ("last canary with a no-harm gate unmeasured", 2, LATER, {"odd": {(3, "canary"): None}}, Note, "latency"),
    ("last canary unproven on its own weight", 2, LATER, {"last": False}, Note, "last one alone"),
    ("last canary with one gate unproven", 2, LATER, {"odd": {(0, "canary"): INCONCLUSIVE}}, Note, "errors"),
    ("last canary whose shadow gate no longer passes", 2, LATER,
     {"odd": {(1, "shadow"): INCONCLUSIVE}}, Note, "agreement"),
    ("last canary with few requests", 2, LATER, {"requests": 49}, Note, "1 more candidate"),
    ("last canary past its deadline", 2, DEADLINE, {"outcome": INCONCLUSIVE}, Pause, "deadline"),
    ("last canary without any verdict", 2, DEADLINE,
     {"outcome": None}, Pause, "not measured"),
    ("breaker", 1, LATER, {"signals": Signals(tripped="the breaker tripped")}, RollBack, "breaker"),
    ("lapsed lease", 2, LATER, {"signals": Signals(lapsed="unattended")}, RollBack, "unattended"),
    ("direct abort before everything", 1, LATER,
     {"signals": Signals("by hand", "x", "y"), "odd": {(0, "canary"): FAIL}}, Abort, "by hand"),
    ("a controller that cannot look", 1, LATER, {"broken": "KeyError"}, HoldError, "KeyError"),
]  # fmt: skip


def look_of(story: Story, constants: FrozenConstants, fields: dict[str, Any]) -> Look:
    fields = dict(fields)
    wanted = {
        name: fields.pop(name)
        for name in ("odd", "validity", "requests", "last", "outcome")
        if name in fields
    }
    if fields.get("frozen"):
        fields["frozen"] = constants
    if wanted.get("outcome", PASS) is None:
        return story.look(msgspec.structs.replace(story.analysis(), verdicts=()), **fields)
    return story.look(story.analysis(**wanted), **fields)


@pytest.mark.parametrize(
    ("step", "now", "fields", "expected", "says"),
    [pytest.param(*row[1:], id=row[0]) for row in SITUATIONS],
)
def test_each_situation_has_its_one_answer(
    story: Story,
    constants: FrozenConstants,
    step: int | None,
    now: float,
    fields: dict[str, Any],
    expected: type,
    says: str,
) -> None:
    action = only(decide(story.at(step, BEGAN), story.policy, look_of(story, constants, fields), now))
    assert isinstance(action, expected), action
    assert says in action.reason


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.ended])
def test_an_ended_rollout_decides_nothing(story: Story, phase: Phase) -> None:
    record = story.at(2, BEGAN, phase=phase)
    look = story.look(story.analysis(FAIL), signals=Signals("a", "b", "c"))
    assert decide(record, story.policy, look, OVER) == []


class TestHoldsHaveClocks:
    def test_an_error_rolls_back_when_its_clock_runs_out(self, story: Story) -> None:
        broken = story.look(story.analysis(validity=(LOSS,)))
        record = story.at(1, BEGAN)
        held = apply(record, only(decide(record, story.policy, broken, LATER)), LATER)
        assert held.phase is Phase.CANARY, "traffic stays where it is"
        assert isinstance(only(decide(held, story.policy, broken, LATER + 59)), Note)
        action = only(decide(held, story.policy, broken, LATER + 60))
        assert isinstance(action, RollBack)
        assert "2% of the facts" in action.reason

    def test_an_error_that_changes_its_face_keeps_its_clock(self, story: Story) -> None:
        record = story.at(1, BEGAN)
        broken = story.look(story.analysis(validity=(LOSS,)))
        held = apply(record, only(decide(record, story.policy, broken, LATER)), LATER)
        other = story.look(story.analysis(odd={(0, "canary"): ERROR}))
        assert isinstance(only(decide(held, story.policy, other, LATER + 30)), Note)
        assert isinstance(only(decide(held, story.policy, other, LATER + 60)), RollBack)

    def test_an_error_that_is_gone_lets_go_and_the_rollout_goes_on(self, story: Story) -> None:
        record = story.at(1, BEGAN)
        broken = story.look(story.analysis(validity=(LOSS,)))
        held = apply(record, only(decide(record, story.policy, broken, LATER)), LATER)
        release, then = decide(held, story.policy, story.look(), LATER + 61)
        assert isinstance(release, Release)
        assert isinstance(then, Advance)
        assert apply(held, release, LATER + 61).hold is None

    def test_an_error_that_comes_and_goes_uses_up_one_clock(self, story: Story) -> None:
        broken = story.look(story.analysis(validity=(LOSS,)))
        waiting = story.look(story.analysis(requests=0))
        record, now = story.at(1, BEGAN), LATER
        for _ in range(5):  # ten seconds of error, twenty without, of a minute in all
            held = apply(record, only(decide(record, story.policy, broken, now)), now)
            assert isinstance(only(decide(held, story.policy, broken, now + 9)), Note)
            release, _ = decide(held, story.policy, waiting, now + 10)
            record, now = apply(held, release, now + 10), now + 30
        held = apply(record, only(decide(record, story.policy, broken, now)), now)
        assert isinstance(only(decide(held, story.policy, broken, now + 9)), Note)
        action = only(decide(held, story.policy, broken, now + 10))
        assert isinstance(action, RollBack)
        assert "after 60 s in all" in action.reason
        # One that had gone for as long as the clock is another one.
        later = now - 20 + 60
        held = apply(record, only(decide(record, story.policy, broken, later)), later)
        assert held.hold is not None
        assert held.hold.until == later + 60

    def test_errors_that_come_and_go_do_not_stop_the_deadline(self, story: Story) -> None:
        record = story.at(1, BEGAN)
        broken = story.look(story.analysis(validity=(LOSS,)))
        held = apply(record, only(decide(record, story.policy, broken, DEADLINE - 1)), DEADLINE - 1)
        _, then = decide(held, story.policy, story.look(story.analysis(requests=0)), DEADLINE)
        assert isinstance(then, Pause)

    def test_an_error_whose_action_is_pause_pauses_and_then_rolls_back(self, story: Story) -> None:
        patient = story.varied(on_error=Clock(action="pause", after=60.0))
        record = story.at(1, BEGAN)
        broken = story.look(story.analysis(validity=(LOSS,)))
        held = apply(record, only(decide(record, patient.policy, broken, LATER)), LATER)
        pause = only(decide(held, patient.policy, broken, LATER + 60))
        assert isinstance(pause, Pause)
        paused = apply(held, pause, LATER + 60)
        assert paused.phase is Phase.PAUSED
        # The error's end does not resume it; only a person does.
        assert isinstance(only(decide(paused, patient.policy, story.look(), LATER + 61)), Note)
        end = LATER + 60 + patient.policy.max_duration
        assert isinstance(only(decide(paused, patient.policy, broken, end)), RollBack)

    def test_a_pause_rolls_back_after_max_duration(self, story: Story) -> None:
        paused = paused_at(story, 1, LATER)
        nearly = LATER + story.policy.max_duration - 1
        assert isinstance(only(decide(paused, story.policy, story.look(), nearly)), Note)
        assert isinstance(only(decide(paused, story.policy, story.look(), nearly + 1)), RollBack)

    def test_an_error_during_a_pause_has_its_own_clock_and_gives_the_pause_back(self, story: Story) -> None:
        paused = paused_at(story, 1, LATER)
        broken = story.look(story.analysis(validity=(LOSS,)))
        held = apply(paused, only(decide(paused, story.policy, broken, LATER + 10)), LATER + 10)
        assert held.phase is Phase.PAUSED
        assert isinstance(only(decide(held, story.policy, broken, LATER + 70)), RollBack)
        release, then = decide(held, story.policy, story.look(), LATER + 70)
        assert isinstance(release, Release)
        assert isinstance(then, Note)
        assert apply(held, release, LATER + 70).hold == paused.hold


class TestWhilePaused:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"signals": Signals(tripped="breaker")}, RollBack),
            ({"signals": Signals(lapsed="lease")}, RollBack),
            ({"signals": Signals(direct="by hand")}, Abort),
            ({}, Note),
        ],
    )
    def test_routers_still_decide(self, story: Story, fields: dict[str, Any], expected: type) -> None:
        action = only(decide(paused_at(story, 1, LATER), story.policy, story.look(**fields), LATER + 1))
        assert isinstance(action, expected)

    def test_harm_still_rolls_back(self, story: Story) -> None:
        harm = story.look(story.analysis(odd={(0, "canary"): FAIL}))
        assert isinstance(only(decide(paused_at(story, 1, LATER), story.policy, harm, LATER + 1)), RollBack)

    def test_proof_does_not_promote(self, story: Story) -> None:
        action = only(decide(paused_at(story, 2, LATER), story.policy, story.look(), LATER + 1))
        assert isinstance(action, Note)

    def test_minima_and_deadlines_do_not_count_the_pause(self, story: Story) -> None:
        record = story.at(1, BEGAN)
        paused = apply(record, Pause(paused_hold("operator", "lunch", story.policy, BEGAN + 5)), BEGAN + 5)
        resumed = apply(paused, Resume("back"), BEGAN + 1000)
        assert resumed.held_for == 995.0
        assert resumed.phase is Phase.CANARY
        assert isinstance(only(decide(resumed, story.policy, story.look(), BEGAN + 1014)), Note)
        assert isinstance(only(decide(resumed, story.policy, story.look(), BEGAN + 1015)), Advance)

    def test_max_duration_does_not_count_the_pause(self, story: Story) -> None:
        record = story.at(1, BEGAN)
        paused = apply(record, Pause(paused_hold("operator", "leave", story.policy, BEGAN + 5)), BEGAN + 5)
        resumed = apply(paused, Resume("back"), BEGAN + 3500)
        undecided = story.look(story.analysis(requests=0))
        assert isinstance(only(decide(resumed, story.policy, undecided, OVER)), Note)


def test_an_unattended_lapse_that_pauses_does_so_once(story: Story) -> None:
    patient = story.varied(unattended=Clock(action="pause", after=60.0)).policy
    lapsed = story.look(signals=Signals(lapsed="router r1 was unattended"))
    record = story.at(1, BEGAN)
    pause = only(decide(record, patient, lapsed, LATER))
    assert isinstance(pause, Pause)
    paused = apply(record, pause, LATER)
    assert paused.hold is not None
    assert paused.hold.kind == "unattended"
    assert isinstance(only(decide(paused, patient, lapsed, LATER + 1)), Note)


def test_inconclusive_rolls_back_where_the_policy_says_so(story: Story) -> None:
    strict = story.varied(on_inconclusive="rollback").policy
    undecided = story.look(story.analysis(INCONCLUSIVE))
    assert isinstance(only(decide(story.at(2, BEGAN), strict, undecided, DEADLINE)), RollBack)


def test_a_policy_without_a_canary_finishes_in_a_pause(story: Story) -> None:
    shadow_only = story.varied(steps=story.policy.steps[:1])
    action = only(decide(shadow_only.at(0, BEGAN), shadow_only.policy, story.look(), LATER))
    assert isinstance(action, Pause)
    assert action.hold.kind == "finished"


def test_a_policy_that_asks_for_no_proof_never_promotes(story: Story) -> None:
    lax = story.varied(
        gates=tuple(gate.model_copy(update={"require": "no-harm"}) for gate in story.policy.gates)
    )
    action = only(decide(lax.at(2, BEGAN), lax.policy, story.look(), LATER))
    assert isinstance(action, Note)
    assert "nothing can prove" in action.reason


class TestReports:
    def report(self, **fields: Any) -> ReplicaReport:
        return ReplicaReport(source="r1:a", replica="r1", at=BEGAN + 5, **fields)

    def test_the_generation_in_force_counts(self, story: Story) -> None:
        reports = (self.report(tripped={"fraud": 7}, lapsed={"fraud": 7}),)
        signals = read_signals(story.at(1, BEGAN), 7, reports)
        assert signals.tripped is not None
        assert signals.lapsed is not None

    def test_what_was_said_of_an_older_generation_is_past(self, story: Story) -> None:
        assert story.at(1, BEGAN).generation == 2
        reports = (self.report(tripped={"fraud": 1, "other": 7}, lapsed={"fraud": 6}),)
        assert read_signals(story.at(1, BEGAN), 7, reports) == Signals()

    def test_a_trip_counts_although_a_newer_generation_of_the_rollout_came_meanwhile(
        self, story: Story
    ) -> None:
        assert read_signals(story.at(1, BEGAN), 7, (self.report(tripped={"fraud": 6}),)).tripped is not None

    def test_a_direct_abort_carries_its_reason(self, story: Story) -> None:
        report = self.report(direct={"fraud": "INC-81"}, generations={"fraud": 2})
        signals = read_signals(story.at(1, BEGAN), 7, (report,))
        assert signals.direct is not None
        assert "INC-81" in signals.direct

    def test_a_direct_abort_from_before_the_rollout_is_past(self, story: Story) -> None:
        reports = (self.report(direct={"fraud": "INC-81"}, generations={"fraud": 2}),)
        assert read_signals(story.at(1, BEGAN + 10), 7, reports) == Signals()

    def test_a_router_that_has_not_seen_the_start_speaks_of_an_earlier_rollout(self, story: Story) -> None:
        reports = (self.report(direct={"fraud": "INC-81"}, generations={"fraud": 1}),)
        assert story.at(1, BEGAN).generation == 2
        assert read_signals(story.at(1, BEGAN), 7, reports) == Signals()


class TestTheTable:
    def test_what_it_does_not_know_is_refused(self) -> None:
        for before in (None, *Phase):
            for act in ("start", "advance", "promote", "rollback", "pause", "resume", "abort"):
                for after in Phase:
                    if after in TRANSITIONS.get((before, act), ()):
                        check(before, act, after)
                    else:
                        with pytest.raises(Conflict):
                            check(before, act, after)

    def test_nothing_leaves_an_end(self) -> None:
        assert not [key for key in TRANSITIONS if key[0] is not None and key[0].ended]

    def test_every_open_phase_can_end(self) -> None:
        for phase in Phase:
            if not phase.ended:
                assert {"rollback", "abort"} <= {act for before, act in TRANSITIONS if before is phase}

    def test_the_diagram_shows_each_transition(self) -> None:
        text = diagram()
        for (before, act), targets in TRANSITIONS.items():
            for after in targets:
                arrow = f"{'[*]' if before is None else before.value} --> {after.value}: "
                line = next(line for line in text.splitlines() if line.strip().startswith(arrow))
                assert act in line


def test_the_baseline_freezes_only_with_its_minima(story: Story) -> None:
    record = story.at(None, BEGAN)
    assert may_freeze(record, story.policy, 100, BEGAN + 10)
    assert not may_freeze(record, story.policy, 99, BEGAN + 10)
    assert not may_freeze(record, story.policy, 100, BEGAN + 9)
    held = Hold(kind="error", reason="x", since=BEGAN, until=BEGAN + 60, action="rollback")
    assert not may_freeze(msgspec.structs.replace(record, hold=held), story.policy, 100, BEGAN + 10)


def paused_at(story: Story, step: int | None, now: float) -> RolloutRecord:
    hold = paused_hold("operator", "paused by anna", story.policy, now)
    return apply(story.at(step, BEGAN), Pause(hold), now)


# Whole lives, driven by looks.


def live(
    story: Story,
    constants: FrozenConstants,
    look_at: Callable[[RolloutRecord, float], Look],
    every: float,
    looks: int,
) -> RolloutRecord:
    """A rollout looked at so many times; what is decided is done."""
    record, now = story.started(BEGAN), BEGAN
    for _ in range(looks):
        now += every
        for action in decide(record, story.policy, look_at(record, now), now):
            epoch = None
            if isinstance(action, Advance):
                step = story.policy.steps[action.step]
                epoch = EpochRecord(
                    record.epoch + 1,
                    action.step,
                    "shadow" if step.shadow else "canary",
                    step.canary or 0,
                    step.shadow or 0,
                    now,
                )
            record = apply(record, action, now, epoch)
        if record.phase.ended:
            break
    return record


def test_a_good_candidate_walks_through_every_step_to_the_end(
    story: Story, constants: FrozenConstants
) -> None:
    good = story.look(baseline_requests=500, frozen=constants)
    record = live(story, constants, lambda *_: good, 1.0, 200)
    assert record.phase is Phase.PROMOTED
    assert [epoch.place for epoch in record.epochs] == ["baseline", "shadow", "canary", "canary"]
    assert [epoch.weight for epoch in record.epochs] == [0.0, 0.0, 0.05, 0.5]


@pytest.mark.parametrize("on_inconclusive", ["pause", "rollback"])
@pytest.mark.parametrize("reached", [None, 0, 1, 2])
def test_without_traffic_every_state_ends_in_rollback_and_never_in_promotion(
    story: Story, constants: FrozenConstants, reached: int | None, on_inconclusive: str
) -> None:
    varied = story.varied(on_inconclusive=on_inconclusive)
    record, now = varied.at(reached, BEGAN), BEGAN
    nothing = varied.look(varied.analysis(INCONCLUSIVE, requests=0))
    for _ in range(200):
        now += 60.0
        for action in decide(record, varied.policy, nothing, now):
            record = apply(record, action, now)
    assert record.phase is Phase.ROLLED_BACK


outcomes = st.sampled_from([PASS, FAIL, INCONCLUSIVE, ERROR, None])


@st.composite
def looks_without_proof(draw: st.DrawFn) -> dict[str, Any]:
    """A look in which at least one gate that needs proof in the canary does not have it."""
    odd: dict[tuple[int, str], Outcome | None] = {
        (index, place): draw(outcomes)
        for index, place in [(0, "canary"), (1, "shadow"), (2, "shadow"), (2, "canary"), (3, "canary")]
    }
    ways: list[tuple[int, str] | str] = [
        (0, "canary"), (2, "canary"), (1, "shadow"), "last", "requests", "validity",
    ]  # fmt: skip
    unproven = draw(st.sampled_from(ways))
    fields: dict[str, Any] = {"odd": odd}
    if unproven == "last":
        fields["last"] = False
    elif unproven == "requests":
        fields["requests"] = draw(st.integers(0, 49))
    elif isinstance(unproven, str):
        fields["validity"] = (LOSS,)
    else:
        odd[unproven] = draw(st.sampled_from([FAIL, INCONCLUSIVE, ERROR, None]))
    return fields


@given(st.lists(looks_without_proof(), min_size=1, max_size=25), st.floats(0.1, 900.0), st.booleans())
def test_no_sequence_of_looks_without_proof_ever_promotes(
    story: Story, constants: FrozenConstants, looks: list[dict[str, Any]], every: float, benign: bool
) -> None:
    """Whatever is seen, from the last step on: only a look in which all is proven promotes."""
    record, now = story.at(2, BEGAN), BEGAN
    for fields in looks:
        now += every
        look = look_of(story, constants, fields)
        if benign:  # no harm and no error: the way on which one could slip through
            kept = tuple(v for v in look.analysis.verdicts if v.outcome in {PASS, INCONCLUSIVE})
            look = Look(msgspec.structs.replace(look.analysis, verdicts=kept))
        for action in decide(record, story.policy, look, now):
            assert not isinstance(action, Promote | Advance)
            record = apply(record, action, now)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(outcomes, st.integers(0, 200), st.booleans()), min_size=1, max_size=30),
    st.floats(1.0, 2000.0),
)
def test_every_life_ends(
    story: Story, constants: FrozenConstants, seen: list[tuple[Outcome | None, int, bool]], every: float
) -> None:
    """Looked at for long enough, with anything seen, a rollout ends by itself."""

    def look_at(record: RolloutRecord, now: float) -> Look:
        outcome, requests, lost = seen[int(now) % len(seen)]
        analysis = story.analysis(outcome or PASS, requests=requests, validity=(LOSS,) if lost else ())
        if outcome is None:
            analysis = msgspec.structs.replace(analysis, verdicts=())
        return Look(analysis, baseline_requests=requests, frozen=constants)

    longest = 3 * story.policy.max_duration
    record = live(story, constants, look_at, every, int(longest / every) + 40)
    assert record.phase.ended
