"""The HTTP API over a real socket: everything the command does."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from rich.console import Console

from accede.cli.output import console
from accede.cli.tables import services, status
from accede.controller.api.app import MAX_BODY
from accede.controller.api.messages import OPERATIONS
from accede.controller.api.shown import RolloutView, Services
from accede.errors import StoreError
from accede.store.protocol import Claimant, Leadership
from accede.store.rollouts import AddressState, Finding, FrozenConstants, Outcome, ReplicaReport

from .serving import Controller, refused, serving

if TYPE_CHECKING:
    from .conftest import Story


@pytest.fixture
def controller(
    tmp_path: Path, story: Story, constants: FrozenConstants, declared_files: dict[str, str]
) -> Iterator[Controller]:
    with serving(tmp_path, declared_files, constants, story.analysis()) as parts:
        yield parts


def test_a_rollout_from_start_to_promotion(controller: Controller) -> None:
    begun = controller.start()
    assert (begun["phase"], begun["step"], begun["candidate"], begun["exit_code"]) == (
        "baseline",
        None,
        "43",
        4,
    )
    assert [step["state"] for step in begun["steps"]] == ["next"] * 3
    controller.rounds(40)
    view = controller.rollout()
    assert (view["phase"], view["step"], view["weight"]) == ("shadow", 1, 0.0)
    assert view["mirrored"] == 0.5
    assert view["next_step"] == "canary 5%"
    assert view["steps"][0]["text"] == "shadow 50%, until gates"
    assert {gate["verdict"]["gate"] for gate in view["gates"]} >= {"errors", "prediction.agreement"}
    controller.rounds(200)
    view = controller.rollout()
    assert (view["phase"], view["exit_code"], view["weight"]) == ("promoted", 0, 1.0)
    (service,) = controller.client.get("/api/v1/services").json()["services"]
    assert (service["stable"], service["stable_in_file"]) == ("43", "42")


def test_who_leads_is_shown_everywhere(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    name = controller.loop.leading.name
    controller.start()
    answers = controller.client
    found = answers.get("/api/v1/controllers").json()
    assert (found["leader"], found["vacant"]) == (name, None)
    (leader,) = found["controllers"]
    assert (leader["name"], leader["leads"], leader["asked"]) == (name, True, True)
    assert controller.rollout()["controllers"] == found
    assert answers.get("/api/v1/services").json()["controllers"] == found
    assert answers.get("/readyz").json() == {"ok": True, "reason": "", "role": "leads", "warning": ""}

    others = Leadership(5000.0, Claimant("b", 4000.0), (Claimant(name, None),))
    monkeypatch.setattr(controller.store, "leadership", lambda: others)
    ready = answers.get("/readyz").json()
    assert (ready["ok"], ready["role"], ready["warning"]) == (True, "stands by", "")
    shown = console(io.StringIO())
    shown.print(status(msgspec.convert(controller.rollout(), RolloutView)))
    assert isinstance(shown.file, io.StringIO)
    text = " ".join(shown.file.getvalue().split())
    assert "b leads since " in text
    assert f"{name} stands by" in text

    monkeypatch.setattr(controller.store, "leadership", lambda: Leadership(5000.0, None, (), 4920.0))
    warning = answers.get("/readyz").json()["warning"]
    assert "no controller leads for 80 s: nothing is decided" in warning
    shown = console(io.StringIO())
    shown.print(services(msgspec.convert(answers.get("/api/v1/services").json(), Services)))
    assert isinstance(shown.file, io.StringIO)
    assert "no controller leads for 80 s" in " ".join(shown.file.getvalue().split())
    monkeypatch.setattr(controller.store, "leadership", lambda: Leadership(5000.0, None, (), 4995.0))
    assert answers.get("/readyz").json()["warning"] == ""  # another one takes over


def test_what_a_step_waits_for_is_shown(controller: Controller, story: Story) -> None:
    controller.analysis = story.analysis(requests=10, odd={(1, "shadow"): Outcome.INCONCLUSIVE})
    controller.start()
    controller.rounds(40)
    needs = controller.rollout()["needs"]
    assert any("40 more pairs" in need for need in needs)
    assert any("agreement" in need for need in needs)


def test_an_abort_goes_straight_through(controller: Controller) -> None:
    controller.start()
    answer = controller.post("fraud/rollout/abort", reason="INC-81")
    assert (answer.status_code, answer.json()["phase"], answer.json()["exit_code"]) == (200, "aborted", 3)
    (route,) = controller.store.routes().routes
    assert route.plan is None
    assert controller.post("fraud/rollout/abort", reason="again").status_code == 200


def test_pause_resume_and_promote(controller: Controller, story: Story) -> None:
    controller.start()
    controller.rounds(30)
    paused = controller.post("fraud/rollout/pause", reason="lunch").json()
    assert (paused["phase"], paused["hold"]["kind"], paused["hold"]["action"]) == (
        "paused",
        "operator",
        "rollback",
    )
    assert controller.post("fraud/rollout/resume").json()["phase"] == "shadow"
    assert controller.post("fraud/rollout/promote").json()["step"] == 2
    controller.analysis = story.analysis(Outcome.INCONCLUSIVE)
    message = refused(controller.post("fraud/rollout/promote", full=True), 400, "UsageError")
    assert "--reason" in message
    promoted = controller.post("fraud/rollout/promote", full=True, reason="contract ends").json()
    assert promoted["phase"] == "promoted"
    assert "contract ends" in promoted["override"]


def test_the_policy_may_come_as_text_and_its_errors_name_the_line(
    controller: Controller, declared_files: dict[str, str]
) -> None:
    text = declared_files["careful.yaml"].replace("metric: errors", "metric: errrors")
    answer = controller.post("fraud/rollouts", candidate="43", policy_text=text, policy_file="mine.yaml")
    message = refused(answer, 422, "FileError")
    assert message.startswith("mine.yaml:12:14: gates[0].metric")
    good = controller.post("fraud/rollouts", candidate="43", policy_text=declared_files["careful.yaml"])
    assert good.json()["policy"] == "careful"


def test_without_a_policy_the_services_own_is_used(controller: Controller) -> None:
    assert controller.post("fraud/rollouts", candidate="43").json()["policy"] == "guarded"


class TestRefusals:
    def test_an_unknown_service_version_and_policy(self, controller: Controller) -> None:
        assert "fraud" in refused(controller.post("frodo/rollouts", candidate="43"), 404, "NotFound")
        assert "42, 43, 44" in refused(controller.post("fraud/rollouts", candidate="99"), 404, "NotFound")
        answer = controller.post("fraud/rollouts", candidate="43", policy="garded")
        assert "guarded" in refused(answer, 422, "FileError")

    def test_a_policy_name_is_no_path(self, controller: Controller, tmp_path: Path) -> None:
        answer = controller.post("fraud/rollouts", candidate="43", policy=str(tmp_path / "x.yaml"))
        assert "path" in refused(answer, 409, "Conflict")

    def test_a_second_start(self, controller: Controller) -> None:
        controller.start()
        refused(controller.post("fraud/rollouts", candidate="44", policy="careful"), 409, "Conflict")

    def test_nothing_to_act_on(self, controller: Controller) -> None:
        refused(controller.post("fraud/rollout/pause"), 404, "NotFound")
        refused(controller.client.get("/api/v1/services/fraud/rollout"), 404, "NotFound")

    def test_a_body_that_is_wrong_names_each_key(self, controller: Controller) -> None:
        answer = controller.client.post(
            "/api/v1/services/fraud/rollouts", json={"candidat": "43", "actor": 3}
        )
        message = refused(answer, 400, "UsageError")
        assert "candidate" in message
        assert "candidat:" in message
        assert "actor" in message

    def test_a_body_that_is_too_large(self, controller: Controller) -> None:
        answer = controller.post("fraud/rollouts", candidate="43", policy_text="x" * MAX_BODY)
        assert "larger than" in refused(answer, 400, "UsageError")

    def test_what_a_foreign_page_in_a_browser_could_send(self, controller: Controller) -> None:
        form = controller.client.post(
            "/api/v1/services/fraud/rollout/abort",
            content=b'{"actor": "x"}',
            headers={"content-type": "text/plain"},
        )
        refused(form, 400, "UsageError")
        rebound = controller.client.get("/api/v1/services", headers={"host": "attacker.example"})
        assert "loopback" in refused(rebound, 400, "UsageError")

    def test_an_unknown_path(self, controller: Controller) -> None:
        refused(controller.client.get("/api/v2"), 404, "NotFound")


def test_history_and_explanation(controller: Controller, story: Story) -> None:
    controller.start()
    controller.rounds(80)
    finding = Finding(
        cell="errors", slice="", outcome=Outcome.FAIL, reason="over", effect="difference", unit="pp",
        estimate=4.2, low=2.5, high=6.0, margin=1.0, log_e_harm=9.0, log_needed_harm=4.0,
    )  # fmt: skip
    bad = story.analysis(odd={(0, "canary"): Outcome.FAIL})
    verdicts = tuple(
        msgspec.structs.replace(v, findings=(finding,), reason="+4.2 pp, margin 1 pp")
        if v.outcome is Outcome.FAIL
        else v
        for v in bad.verdicts
    )
    controller.analysis = msgspec.structs.replace(bad, verdicts=verdicts)
    controller.rounds(40)
    assert controller.rollout()["exit_code"] == 3
    history = controller.client.get("/api/v1/services/fraud/history").json()["entries"]
    assert [entry["act"] for entry in history][:3] == ["introduce", "start", "advance"]
    assert history[-1]["act"] == "rollback"
    explained = controller.client.get("/api/v1/services/fraud/explain").json()
    explanation = explained["explanation"]
    assert explanation["act"] == "rollback"
    assert explanation["sentence"] == "Rollback: errors: +4.2 pp, margin 1 pp."
    (row,) = explanation["rows"]
    assert (row["estimate"], row["interval"], row["margin"]) == ("+4.2 pp", "[+2.5, +6] pp", "1 pp")
    first = controller.client.get("/api/v1/services/fraud/explain", params={"number": 1}).json()[
        "explanation"
    ]
    assert first["act"] == "advance"
    answer = controller.client.get("/api/v1/services/fraud/explain", params={"number": 99})
    assert "there is no number 99" in refused(answer, 404, "NotFound")


def test_replicas_and_their_generations_are_shown(controller: Controller) -> None:
    report = ReplicaReport(
        source="r1:a", replica="r1", at=1000.0, generations={"fraud": 1}, admin_socket="/run/r1"
    )
    controller.store.publish_report(report)
    controller.start()
    view = controller.rollout()
    assert (view["generation"], view["replicas"]) == (2, {"r1": 1})
    assert view["admin_sockets"] == {"r1": "/run/r1"}


def test_addresses_that_routers_leave_out_are_shown_of_the_versions_at_hand(controller: Controller) -> None:
    controller.start()
    rollout = controller.rollout()
    states = (
        AddressState("fraud", rollout["stable"], "10.0.0.7:8501", unready=2, ejected=1),
        AddressState("fraud", "of-long-ago", "10.0.0.8:8501", unready=2, ejected=0),
        AddressState("other", rollout["stable"], "10.0.0.9:8501", unready=2, ejected=0),
    )
    controller.store.publish_report(
        ReplicaReport(
            source="r1:a", replica="r1", at=1000.0, generations={"fraud": 1}, addresses=states, workers=2
        )
    )
    shown = controller.rollout()
    assert shown["addresses"] == [
        {"router": "r1", "version": rollout["stable"], "address": "10.0.0.7:8501",
         "unready": 2, "ejected": 1, "workers": 2},
    ]  # fmt: skip
    text = io.StringIO()
    Console(width=200, file=text).print(status(msgspec.convert(shown, RolloutView)))
    states_told = "not ready for 2 of 2 and ejected by 1 of 2 workers of router r1"
    assert f"version {rollout['stable']}, 10.0.0.7:8501: {states_told}" in text.getvalue()


def test_it_is_ready_while_the_loop_runs_and_the_store_answers(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert controller.client.get("/healthz").json()["ok"]
    assert controller.client.get("/readyz").status_code == 200
    controller.loop.beat = time.monotonic() - 6
    assert controller.client.get("/readyz").status_code == 503
    controller.rounds(1)
    controller.store.close()
    refused(controller.client.get("/readyz"), 503, "StoreError")
    assert controller.client.get("/healthz").json()["ok"]
    with pytest.raises(StoreError):
        controller.loop.tick()
    assert controller.client.get("/healthz").json()["ok"], "a store that is gone is no reason to restart"
    controller.loop.turned -= 61
    hung = controller.client.get("/healthz")
    assert hung.status_code == 503
    assert "restart" in hung.json()["reason"]


def test_the_description_covers_every_operation(controller: Controller) -> None:
    described = controller.client.get("/openapi.json").json()
    for operation in OPERATIONS:
        found = described["paths"][operation.path][operation.method.lower()]
        assert str(operation.success) in found["responses"]
        named = {one["name"] for one in found["parameters"] if one["in"] == "path"}
        assert named == {part[1:-1] for part in operation.path.split("/") if part.startswith("{")}
    text = str(described)
    for name in described["components"]["schemas"]:
        assert name
    for reference in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in described["components"]["schemas"]


def test_labels_are_taken_once_and_wrong_ones_refused_whole(controller: Controller, tmp_path: Path) -> None:
    def send(*labels: dict[str, Any]) -> httpx.Response:
        return controller.client.post("/api/v1/services/fraud/feedback", json={"labels": list(labels)})

    one = {"request_id": "a", "value": 1}
    assert "declares no outcome" in refused(send(one), 400, "UsageError")
    file = tmp_path / "services" / "fraud.yaml"
    file.write_text(file.read_text() + "outcome: {type: binary}\n")
    controller.rounds(10)
    wrong = send(one, {**one, "value": 2, "at": "l.csv:7"})
    assert "l.csv:7: the value is" in refused(wrong, 400, "UsageError")
    counts = send(one, one, {**one, "value": 0}, {"request_id": "b", "value": [True, False]}).json()
    assert counts == {"new": 2, "duplicates": 1, "conflicts": 1, "unknown": 2, "expired": 0, "no_room": 0}
    assert controller.store.labels.held("fraud").labels.new == 2
    assert "labels" in refused(send(), 400, "UsageError")
    assert "larger than" in refused(send({**one, "at": "x" * MAX_BODY}), 400, "UsageError")
    answer = controller.client.post("/api/v1/services/frodo/feedback", json={"labels": [one]})
    assert "fraud" in refused(answer, 404, "NotFound")
