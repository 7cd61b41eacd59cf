"""Approvals over the API: who is let in, what is answered and shown, and two controllers on one store."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rich.console import Console

from accede.cli import tables
from accede.controller.api.access import Tokens, digest
from accede.controller.api.shown import Explained, RolloutView
from accede.controller.files import ServiceFiles
from accede.controller.rollout import replay
from accede.controller.rollout.acting import Acts
from accede.controller.rollout.approvals import Person
from accede.controller.rollout.looking import Engine
from accede.errors import StaleWrite, StoreError
from accede.store.protocol import Commit, Store
from accede.store.rollouts import FrozenConstants, Outcome
from accede.store.sqlite import SqliteStore

from .conftest import CONSTANTS, POLICY
from .serving import Controller, refused, serving

if TYPE_CHECKING:
    from .conftest import Story

APPROVED = POLICY.replace("name: careful", "name: approved").replace(
    "  - {canary: 5%, for: 20s",
    "  - {approve: {group: model-risk, count: 2, valid_for: 10m}, deadline: 20m}\n  - {canary: 5%, for: 20s",
)
PEOPLE = {
    "viv": ("viewer", []), "olga": ("operator", []), "dora": ("approver", ["law"]),
    "anna": ("approver", ["model-risk"]), "ben": ("approver", ["model-risk"]),
    "carl": ("approver", ["model-risk", "law"]),
}  # fmt: skip
APPROVE = "fraud/rollout/approve"


@pytest.fixture
def controller(
    tmp_path: Path, story: Story, constants: FrozenConstants, declared_files: dict[str, str]
) -> Iterator[Controller]:
    """It asks for tokens, and its rollout waits for two approvals. Anna has started it."""
    entries = [
        {"name": name, "role": role, "groups": groups, "sha256": digest(f"token-of-{name}")}
        for name, (role, groups) in PEOPLE.items()
    ]
    file = tmp_path / "tokens.yaml"
    file.write_text(json.dumps({"format": "accede/v1", "kind": "ApiTokens", "tokens": entries}))
    files = {**declared_files, "approved.yaml": APPROVED}
    with serving(tmp_path, files, constants, story.analysis(), Tokens(file)) as parts:
        parts.tokens = {name: f"token-of-{name}" for name in PEOPLE}
        parts.start("anna", "approved")
        waiting(parts)
        yield parts


def waiting(controller: Controller) -> None:
    for _ in range(200):
        controller.rounds(1)
        if controller.rollout("viv")["wanted"] is not None:
            return
    raise AssertionError(controller.rollout("viv"))


def printed(shown: Any) -> str:
    text = io.StringIO()
    Console(width=250, file=text).print(shown)
    return text.getvalue()


def test_two_people_let_it_go_on_and_everything_says_who(controller: Controller) -> None:
    view = controller.rollout("viv")
    assert (view["phase"], view["step"], view["mirrored"]) == ("shadow", 2, 0.5)
    wanted = view["wanted"]
    assert (wanted["group"], wanted["count"], wanted["missing"], wanted["action"]) == (
        "model-risk",
        2,
        2,
        "pause",
    )
    assert wanted["until"] == pytest.approx(controller.now + 1200.0, abs=2.0)
    assert view["needs"] == ["2 more approvals of group model-risk, not of anna, who started it"]
    assert view["steps"][1]["text"] == "approve by 2 of model-risk, not the starter, valid for 10m"
    told = printed(tables.status(msgspec.convert(view, RolloutView)))
    assert "accede approve fraud; 2 of 2 missing, it pauses at" in told

    answer = controller.post(APPROVE, "ben", reason="RISK-7", actor="somebody else")
    assert answer.status_code == 200, answer.text
    view = answer.json()
    (approval,) = view["approvals"]
    assert (approval["by"], approval["group"], approval["step"], approval["counts"]) == (
        "ben",
        "model-risk",
        2,
        True,
    )
    assert view["wanted"]["missing"] == 1
    told = printed(tables.status(msgspec.convert(view, RolloutView)))
    assert "step 2 by ben (model-risk), " in told
    assert f"bound to {approval['digest'][:12]}: RISK-7, void at" in told
    controller.rounds(4)
    assert controller.rollout("viv")["step"] == 2

    assert controller.post(APPROVE, "carl").status_code == 200
    controller.rounds(4)
    view = controller.rollout("viv")
    assert (view["phase"], view["step"], view["wanted"]) == ("canary", 3, None)
    assert [(one["by"], one["counts"]) for one in view["approvals"]] == [("ben", False), ("carl", False)]

    headers = {"authorization": "Bearer token-of-viv"}
    trail = controller.client.get("/api/v1/services/fraud/history", headers=headers).json()["entries"]
    assert [(one["act"], one["actor"]) for one in trail][-3:] == [
        ("approve", "ben"), ("approve", "carl"), ("advance", "controller"),
    ]  # fmt: skip
    assert trail[-3]["detail"]["digest"] == approval["digest"]
    explained = controller.client.get("/api/v1/services/fraud/explain", headers=headers).json()
    assert [one["by"] for one in explained["explanation"]["approvals"]] == ["ben", "carl"]
    told = printed(tables.explanation(msgspec.convert(explained, Explained)))
    assert "by carl (model-risk), " in told
    decisions = controller.store.decisions("fraud-1")
    assert [one.act for one in decisions] == ["advance", "advance", "approve", "approve", "advance"]


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("viv", "viv has the role viewer; this needs approver"),
        ("olga", "olga has the role operator; this needs approver"),
        ("dora", "step 2 needs somebody of the group model-risk; dora has the groups: law"),
        ("anna", "step 2 needs somebody else than anna, who started the rollout"),
    ],
)
def test_whoever_does_not_count_is_told_what_is_needed(controller: Controller, who: str, words: str) -> None:
    assert words in refused(controller.post(APPROVE, who), 403, "Forbidden")
    assert not controller.rollout("viv")["approvals"]


@pytest.mark.parametrize(
    ("asked", "who", "there"),
    [
        ("{group: model-risk, count: 3}", "anna", 2),  # anna starts it
        ("{group: model-risk, count: 4, not_starter: false}", "anna", 3),
        ("{group: board}", "olga", 0),
        ("{count: 5}", "olga", 4),
    ],
)
def test_what_nobody_could_approve_is_not_begun(
    controller: Controller, asked: str, who: str, there: int
) -> None:
    controller.post("fraud/rollout/abort", "anna")
    text = APPROVED.replace("{group: model-risk, count: 2, valid_for: 10m}", asked)
    answer = controller.post("fraud/rollouts", who, candidate="43", policy_text=text)
    message = refused(answer, 409, "Conflict")
    assert "step 2 of policy 'approved' asks for approval by " in message
    assert f"the controller's tokens have {there} of them" in message
    assert "accede token" in message


def test_twice_is_once(controller: Controller) -> None:
    for _ in range(3):
        assert controller.post(APPROVE, "ben", step=2).status_code == 200
    controller.rounds(4)
    view = controller.rollout("viv")
    assert (len(view["approvals"]), view["wanted"]["missing"]) == (1, 1)
    assert [one.act for one in controller.store.audit("fraud")].count("approve") == 1
    other = refused(controller.post(APPROVE, "carl", step=3), 409, "Conflict")
    assert "is in step 2, so step 3 is not approved" in other
    assert "step" in refused(controller.post(APPROVE, "carl", step=0), 400, "UsageError")


def test_an_override_does_not_go_round_it(controller: Controller) -> None:
    for flags in ({}, {"full": True}):
        answer = controller.post("fraud/rollout/promote", "dora", reason="it is urgent", **flags)
        assert "does not stand in for approvals" in refused(answer, 409, "Conflict")


def test_evidence_that_turns_voids_and_refuses(controller: Controller, story: Story) -> None:
    controller.post(APPROVE, "ben")
    controller.analysis = story.analysis(odd={(1, "shadow"): Outcome.INCONCLUSIVE})
    message = refused(controller.post(APPROVE, "carl"), 409, "Conflict")
    assert "prediction.agreement was proven and is not any more" in message
    controller.rounds(4)
    view = controller.rollout("viv")
    assert (view["approvals"], view["step"]) == ([], 2)
    void = controller.store.audit("fraud")[-1]
    assert (void.act, void.detail["by"]) == ("void", "ben")
    assert "prediction.agreement was proven and is not any more" in void.reason


def test_a_changed_address_voids(controller: Controller, tmp_path: Path) -> None:
    controller.post(APPROVE, "ben")
    file = tmp_path / "services" / "fraud.yaml"
    file.write_text(file.read_text().replace("127.0.0.1:8502", "127.0.0.1:8599"))
    controller.rounds(8)
    assert controller.rollout("viv")["approvals"] == []
    assert "has changed" in controller.store.audit("fraud")[-1].reason


def test_nobody_in_particular_can_be_approved_for_without_tokens(
    tmp_path: Path, story: Story, constants: FrozenConstants, declared_files: dict[str, str]
) -> None:
    one = APPROVED.replace("{group: model-risk, count: 2, valid_for: 10m}", "{not_starter: false}")
    files = {
        **declared_files,
        "approved.yaml": APPROVED,
        "one.yaml": one.replace("name: approved", "name: one"),
    }
    with serving(tmp_path, files, constants, story.analysis()) as controller:
        answer = controller.post("fraud/rollouts", candidate="43", policy="approved")
        message = refused(answer, 409, "Conflict")
        assert "without tokens nobody can be told from anybody else" in message
        # Begun while there were tokens.
        standby(controller, tmp_path).start("fraud", "43", "anna", policy="approved")
        controller.baseline("fraud-1")
        waiting_without(controller)
        message = refused(controller.post(APPROVE, actor="ben"), 403, "Forbidden")
        assert "without tokens nobody can be told from anybody else" in message
        controller.post("fraud/rollout/abort")
        controller.post("fraud/rollouts", candidate="43", policy="one")
        controller.baseline("fraud-2")
        waiting_without(controller)
        assert controller.post(APPROVE, actor="ben").status_code == 200
        controller.rounds(4)
        assert controller.rollout()["step"] == 3


def waiting_without(controller: Controller) -> None:
    for _ in range(200):
        controller.rounds(1)
        if controller.rollout()["wanted"] is not None:
            return
    raise AssertionError(controller.rollout())


def standby(controller: Controller, tmp_path: Path, store: Store | None = None) -> Acts:
    """The acts of another controller on the same store, with files of its own."""
    engine = Engine(
        lambda *arguments: msgspec.structs.replace(controller.analysis, at=arguments[-1]),
        lambda *_: CONSTANTS,
        lambda *_: ({}, {}),
    )
    return Acts(
        store or controller.store, ServiceFiles(tmp_path / "services"), engine, clock=lambda: controller.now
    )


def test_through_another_controller_it_counts_as_well_and_not_twice(
    controller: Controller, tmp_path: Path
) -> None:
    other = standby(controller, tmp_path)
    assert controller.post(APPROVE, "ben").status_code == 200
    other.approve("fraud", Person("ben", ("model-risk",)))
    assert controller.rollout("viv")["wanted"]["missing"] == 1
    other.approve("fraud", Person("carl", ("model-risk",)))
    controller.rounds(4)
    assert controller.rollout("viv")["step"] == 3


class Meanwhile:
    """A store into which somebody else writes right before the first commit that goes through it."""

    def __init__(self, store: SqliteStore, act: Any) -> None:
        self._store, self._act = store, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, change: Commit) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()
        self._store.commit(change)


def test_two_at_one_moment_both_count(controller: Controller, tmp_path: Path) -> None:
    store: Any = Meanwhile(controller.store, lambda: controller.post(APPROVE, "ben"))
    standby(controller, tmp_path, store).approve("fraud", Person("carl", ("model-risk",)))
    assert [one["by"] for one in controller.rollout("viv")["approvals"]] == ["ben", "carl"]


def test_a_gate_that_turns_between_the_look_and_the_write_is_seen(
    controller: Controller, tmp_path: Path, story: Story
) -> None:
    def turned() -> None:
        controller.analysis = story.analysis(odd={(1, "shadow"): Outcome.INCONCLUSIVE})
        controller.rounds(4)

    controller.post(APPROVE, "ben")
    store: Any = Meanwhile(controller.store, turned)
    with pytest.raises(Exception, match="was proven and is not any more"):
        standby(controller, tmp_path, store).approve("fraud", Person("carl", ("model-risk",)))
    controller.rounds(4)
    assert (controller.rollout("viv")["approvals"], controller.rollout("viv")["step"]) == ([], 2)


def test_a_store_that_cannot_write_refuses_and_keeps_nothing(controller: Controller, tmp_path: Path) -> None:
    def gone() -> None:
        raise StoreError("the store cannot be reached")

    store: Any = Meanwhile(controller.store, gone)
    with pytest.raises(StoreError, match="cannot be reached") as refusal:
        standby(controller, tmp_path, store).approve("fraud", Person("carl", ("model-risk",)))
    assert not isinstance(refusal.value, StaleWrite)
    assert not controller.rollout("viv")["approvals"]


def test_what_was_approved_can_be_computed_again(controller: Controller) -> None:
    controller.post(APPROVE, "ben")
    (decision,) = [one for one in controller.store.decisions("fraud-1") if one.act == "approve"]

    def analyse(*arguments: Any) -> Any:
        return msgspec.structs.replace(controller.analysis, at=arguments[-1])

    assert replay.same(decision, analyse)
