"""Pairs in the canary: which gates they decide, when they do not count, and what the route and status say."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from accede.cli.tables import status
from accede.controller.api.views import rollout_view
from accede.controller.rollout.conditions import missing_to_advance, unproven, unready_to_promote
from accede.controller.rollout.measuring import measurement_plan
from accede.controller.rollout.mirroring import kinds_of, mirrors_of, noise_floor
from accede.controller.rollout.overriding import override_digest
from accede.controller.rollout.routing import idle_route, rollout_route
from accede.errors import Conflict, FileError
from accede.policies.load import parse_policy, parse_service, require_pair
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService
from accede.store.evidence import ArmCounts, MirrorCounts
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import Analysis, EpochRecord, Outcome, RolloutRecord, Verdict
from accede.store.routes import Arm, decode_route, encode_route
from tests.controller.conftest import POLICY, SERVICE, Story
from tests.controller.test_analysis import NOW, Scene, policy

STEPS: tuple[dict[str, Any], ...] = (
    {"shadow": "100%"},
    {"canary": "10%", "mirror_back": "100%"},
    {"canary": "50%", "mirror_back": "20%"},
)
AGREEMENT = {"metric": "prediction.agreement", "min": "90%"}
ERRORS = {"metric": "errors", "max_increase": "1pp", "in": "canary"}
TOKEN = "a-token-of-some-length"


class Backed(Scene):
    """The same epochs, with copies back to stable in both canaries."""

    def record(self) -> RolloutRecord:
        record = super().record()
        shares = {2: 1.0, 3: 0.2}
        epochs = tuple(
            msgspec.structs.replace(epoch, mirror_back=shares.get(epoch.epoch, 0.0))
            for epoch in record.epochs
        )
        return msgspec.structs.replace(record, epochs=epochs)

    def agreed(self, number: int, pairs: float, disagreeing: float, clusters: int = 30) -> Backed:
        rest = [0.0] * (CLUSTERS - clusters)
        y = [pairs - disagreeing * (1.25 if k % 2 else 0.75) for k in range(clusters)] + rest
        self.put(number, "pair", "agreement", [pairs] * clusters + rest, y)
        return self

    def copies(self, number: int, **counts: int) -> Backed:
        self.epoch(number).back = MirrorCounts(**counts)
        return self


def given(*gates: dict[str, Any]) -> RolloutPolicy:
    return policy(*gates, steps=STEPS)


class TestGates:
    def test_agreement_is_decided_by_what_was_mirrored_back(self) -> None:
        good = Backed().agreed(2, 200.0, 4.0).agreed(3, 200.0, 4.0)
        verdict = good.verdict(given(AGREEMENT), "canary")
        assert verdict.outcome is Outcome.PASS
        assert verdict.proven_last_weight
        bad = Backed().agreed(2, 200.0, 60.0).agreed(3, 200.0, 60.0)
        assert bad.verdict(given(AGREEMENT), "canary").outcome is Outcome.FAIL

    def test_a_gate_that_only_watches_waits_for_pairs_not_for_requests(self) -> None:
        watching = given({**AGREEMENT, "in": "canary", "require": "no-harm"})
        scene = Backed().copies(3, paired=20)
        scene.clustered(3, "errors", (200.0, 0.01), (200.0, 0.01))
        scene.epoch(3).arms = {
            "candidate": ArmCounts(accounted=25_600),
            "stable": ArmCounts(accounted=25_600),
        }
        assert scene.verdict(watching, "canary").outcome is Outcome.INCONCLUSIVE
        scene.copies(3, paired=600)
        assert scene.verdict(watching, "canary").outcome is Outcome.ERROR

    def test_one_place_does_not_decide_the_other(self) -> None:
        scene = Backed().agreed(1, 200.0, 4.0)
        assert scene.verdict(given(AGREEMENT), "shadow").outcome is Outcome.PASS
        assert scene.verdict(given(AGREEMENT), "canary").outcome is Outcome.INCONCLUSIVE

    def test_the_last_weight_is_the_last_step_that_mirrors_back(self) -> None:
        scene = Backed().agreed(2, 400.0, 8.0)
        verdict = scene.verdict(given(AGREEMENT), "canary")
        assert (verdict.outcome, verdict.proven_last_weight) == (Outcome.PASS, False)
        early = policy(AGREEMENT, steps=({"canary": "10%", "mirror_back": "100%"}, {"canary": "50%"}))
        record = scene.record()
        epochs = (
            record.epochs[0],
            EpochRecord(2, 0, "canary", 0.1, 0.0, NOW - 2000, mirror_back=1.0),
            EpochRecord(3, 1, "canary", 0.5, 0.0, NOW - 1000),
        )
        scene.record = lambda: msgspec.structs.replace(record, epochs=epochs, step=1)  # type: ignore[method-assign]
        assert scene.verdict(early, "canary").proven_last_weight

    def test_without_enough_of_the_copies_nothing_is_concluded(self) -> None:
        scene = Backed().agreed(2, 200.0, 4.0).copies(2, chosen=6000, sent=5000, paired=5000)
        verdict = scene.verdict(given(AGREEMENT), "canary")
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "83.3% of the copies mirrored back" in verdict.reason
        assert scene.check("back_coverage", given(AGREEMENT)).outcome is Outcome.INCONCLUSIVE
        scene.copies(2, chosen=6000, sent=6000, paired=5900)
        assert scene.verdict(given(AGREEMENT), "canary").outcome is Outcome.PASS

    def test_what_stable_answered_instead_is_no_hole_in_the_coverage(self) -> None:
        scene = Backed().agreed(2, 200.0, 4.0).copies(2, chosen=8000, sent=8000, paired=6000, unpaired=2000)
        assert scene.check("back_coverage", given(AGREEMENT)).outcome is Outcome.PASS

    def test_poor_coverage_of_one_place_says_nothing_about_the_other(self) -> None:
        scene = Backed().agreed(1, 200.0, 4.0).agreed(2, 200.0, 4.0).agreed(3, 200.0, 4.0)
        scene.copies(2, chosen=1000, sent=100, paired=100)
        assert scene.verdict(given(AGREEMENT), "shadow").outcome is Outcome.PASS
        assert "back_coverage" not in {check.check for check in scene.analysis(given(ERRORS)).validity}
        scene.copies(2)
        scene.epoch(1).mirror = MirrorCounts(chosen=1000, sent=100, paired=100)
        assert scene.verdict(given(AGREEMENT), "canary").outcome is Outcome.PASS


class TestDeciding:
    def test_a_step_waits_only_for_what_it_can_decide(self) -> None:
        mixed = policy(
            AGREEMENT,
            ERRORS,
            steps=({"canary": "5%", "until": "gates"}, {"canary": "50%", "mirror_back": "20%"}),
        )
        nothing = Analysis(at=NOW, verdicts=(), validity=())
        first, last = (unproven(mixed, nothing, step) for step in mixed.steps)
        assert ["agreement" in reason for reason in first] == [False]
        assert ["agreement" in reason for reason in last] == [True, False]
        assert any("agreement" in reason for reason in unready_to_promote(mixed, nothing))

    def test_poor_coverage_holds_the_steps_that_mirror_back(self) -> None:
        scene = Backed().agreed(2, 200.0, 4.0).copies(2, chosen=1000, sent=100, paired=100)
        asked = given(AGREEMENT)
        seen = scene.analysis(asked)
        assert any("mirrored back" in why for why in missing_to_advance(scene.record(), asked, seen, NOW))
        shadow = msgspec.structs.replace(scene.record(), step=0)
        passed = msgspec.structs.replace(
            seen, verdicts=(Verdict("agreement", 0, "shadow", Outcome.PASS, "fine"),), candidate_requests=9999
        )
        assert missing_to_advance(shadow, asked, passed, NOW) == ()


def policy_text(steps: str, gates: str = "- {metric: prediction.agreement, min: 90%}") -> str:
    head, _, rest = POLICY.partition("steps:")
    return f"{head}steps:\n  {steps}\ngates:\n  {gates}\non_error:{rest.partition('on_error:')[2]}"


def test_validate_refuses_what_no_pair_will_decide() -> None:
    for steps in ("- {canary: 5%}", "- {canary: 5%}\n  - {canary: 50%}"):
        with pytest.raises(FileError, match="add a shadow step or mirror_back to a canary step"):
            parse_policy(policy_text(steps))
    with pytest.raises(FileError, match="add mirror_back to a canary step"):
        parse_policy(
            policy_text(
                "- {shadow: 5%}\n  - {canary: 5%}", "- {metric: prediction.agreement, min: 9%, in: canary}"
            )
        )
    with pytest.raises(FileError, match="add a canary step with mirror_back"):
        parse_policy(policy_text("- {shadow: 5%}", "- {metric: prediction.agreement, min: 9%, in: canary}"))
    with pytest.raises(FileError, match=r"steps\[0\].until"):
        parse_policy(policy_text("- {canary: 5%, until: gates}\n  - {canary: 9%, mirror_back: 5%}"))
    assert parse_policy(policy_text("- {canary: 5%, mirror_back: 10%}")).steps[0].mirror_back == 0.1


def test_a_service_with_side_effects_takes_no_policy_that_mirrors_back() -> None:
    service = parse_service(SERVICE.replace("side_effects: none", "side_effects: writes"))
    asked = parse_policy(policy_text("- {canary: 5%, mirror_back: 10%}"))
    with pytest.raises(FileError, match=r"steps\[0\].mirror_back.*side effects"):
        require_pair(service, asked)


class TestRoutes:
    STABLE = Arm("stable", "42", ("http://a:1",), 9500)
    CANDIDATE = Arm("candidate", "43", ("http://b:1",), 500)

    def of(self, service: ModelService, epoch: EpochRecord) -> dict[str, tuple[str, int, int]]:
        found = mirrors_of(service, self.STABLE, self.CANDIDATE, epoch)
        return {one.kind: (one.version, one.rate, one.warm_up) for one in found}

    def mirroring(self, written: str) -> ModelService:
        return parse_service(f"{SERVICE}mirror: {{{written}}}\n")

    def test_every_kind_has_its_version_and_share(self) -> None:
        service = self.mirroring("noise_floor: 10%, warm_up: 50")
        shadow = EpochRecord(1, 0, "shadow", 0.0, 0.5, NOW)
        assert self.of(service, shadow) == {"shadow": ("43", 500_000, 50), "floor": ("42", 50_000, 0)}
        canary = EpochRecord(2, 1, "canary", 0.05, 0.0, NOW, mirror_back=0.2)
        assert self.of(service, canary) == {
            "shadow": ("43", 0, 50), "back": ("42", 200_000, 0), "floor": ("42", round(1e5 * 0.2 / 19), 0),
        }  # fmt: skip
        assert self.of(service, EpochRecord(0, None, "baseline", 0.0, 0.0, NOW)) == {}
        found = mirrors_of(service, self.STABLE, self.CANDIDATE, canary)
        assert kinds_of(found) == {"back", "floor"}
        assert noise_floor(service, EpochRecord(2, 1, "canary", 0.99, 0.0, NOW, mirror_back=1.0)) == 1.0

    def test_without_settings_a_canary_copies_nothing(self, story: Story) -> None:
        assert self.of(story.service, EpochRecord(2, 1, "canary", 0.05, 0.0, NOW)) == {}

    def test_side_effects_forbid_copies_but_no_canary(self) -> None:
        service = self.mirroring("warm_up: 5").model_copy(update={"side_effects": "writes"})
        assert self.of(service, EpochRecord(2, 1, "canary", 0.05, 0.0, NOW)) == {}
        with pytest.raises(Conflict, match="without mirror_back"):
            self.of(service, EpochRecord(2, 1, "canary", 0.05, 0.0, NOW, mirror_back=0.1))

    def test_what_copies_lack_is_in_lower_case(self) -> None:
        service = self.mirroring("strip: [Authorization, COOKIE]")
        (one,) = mirrors_of(service, self.STABLE, self.CANDIDATE, EpochRecord(1, 0, "shadow", 0.0, 1.0, NOW))
        assert one.strip == ("authorization", "cookie")

    def test_the_plan_says_which_pairs_there_are(self, story: Story) -> None:
        service = self.mirroring("noise_floor: 10%")
        for epoch, told in (
            (EpochRecord(1, 0, "shadow", 0.0, 0.5, NOW), (False, True)),
            (EpochRecord(2, 1, "canary", 0.05, 0.0, NOW, mirror_back=0.2), (True, True)),
            (EpochRecord(2, 1, "canary", 0.05, 0.0, NOW), (False, False)),
        ):
            plan = measurement_plan(story.started(), story.policy, service, epoch, None)
            assert (plan.back, plan.floor) == told

    @pytest.mark.parametrize(
        ("unit", "told"),
        [
            ("{cookie: session}", (None, "session", None)),
            ("{path: user.id, missing: random}", (None, None, "user.id")),
            ("{header: x-user-id}", ("x-user-id", None, None)),
            ("request", (None, None, None)),
        ],
    )
    def test_units(self, unit: str, told: tuple[str | None, ...]) -> None:
        route = idle_route(parse_service(f"{SERVICE}unit: {unit}\n"), "42", None)
        assert (route.unit_header, route.unit_cookie, route.unit_path) == told

    def test_the_salt_is_the_rollouts_unless_the_file_wants_none(self, story: Story) -> None:
        plain = parse_service(f"{SERVICE}unit: {{header: x-user-id, salt: none}}\n")
        assert rollout_route(plain, story.at(1), story.policy, story.idle()).salt is None
        begun = rollout_route(story.service, story.at(None), story.policy, story.idle())
        assert rollout_route(plain, story.at(1), story.policy, begun).salt == "fraud/fraud-1"


class TestOverride:
    SERVICE = parse_service(f"{SERVICE}override: {{token: 'env:FRAUD_TOKEN'}}\n")

    def test_only_a_digest_of_the_token_is_in_the_route(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FRAUD_TOKEN", TOKEN)
        route = idle_route(self.SERVICE, "42", None)
        assert route.override == hashlib.sha256(TOKEN.encode()).hexdigest()
        assert TOKEN.encode() not in encode_route(route)
        assert decode_route(encode_route(route)) == route
        assert override_digest(parse_service(SERVICE), {}) is None

    @pytest.mark.parametrize(
        "value", [None, "", "short", "with space in the middle", "tab\tin the middle of", "ü" * 20]
    )
    def test_without_a_usable_token_there_is_no_route(self, value: str | None) -> None:
        environment = {} if value is None else {"FRAUD_TOKEN": value}
        with pytest.raises(Conflict, match="FRAUD_TOKEN") as raised:
            override_digest(self.SERVICE, environment)
        if value:
            assert value not in str(raised.value)

    def test_starting_a_rollout_says_what_is_missing(
        self, story: Story, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("FRAUD_TOKEN", raising=False)
        with pytest.raises(Conflict, match="which the controller does not have"):
            rollout_route(self.SERVICE, story.at(1), story.policy, story.idle())


def test_status_shows_every_kind_of_copy(story: Story) -> None:
    scene = Backed().agreed(3, 200.0, 4.0).copies(3, chosen=50, sent=49, paired=40, unpaired=9)
    scene.epoch(3).floor = MirrorCounts(chosen=7, sent=7, paired=7)
    scene.epoch(3).mirror = MirrorCounts(warmed=20, held=33)
    record = msgspec.structs.replace(
        scene.record(), policy=story.started().policy, analysis=scene.analysis(given(AGREEMENT))
    )
    view = rollout_view(record, None, scene.evidence, (), NOW)
    assert (view.mirrored_back, view.mirror) == (0.2, None)
    shown = printed(status(view))
    assert "20.00% of its answers mirrored back to stable" in shown
    assert "50 chosen, 40 pairs (97.6%); dropped: 9 answered by stable instead" in shown
    assert "7 chosen, 7 pairs" in shown
    assert "20 copies not counted, 33 requests answered by stable meanwhile" in shown


def printed(table: Any) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()
