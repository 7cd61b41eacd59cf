# ruff: noqa: E501  (the reference files stand here as they are printed)
"""Right files become the values they say, with the defaults that the language promises."""

from __future__ import annotations

import pytest

from accede.errors import FileError, WireError
from accede.policies.approve import Approve
from accede.policies.groups import groups_of_slice
from accede.policies.load import (
    canonical,
    load_policy,
    parse_policy,
    parse_service,
    policy_from_canonical,
    policy_hash,
    service_from_canonical,
)
from accede.policies.policy import Breaker, RolloutPolicy
from accede.policies.policy_rules import advice
from accede.policies.quantities import Clock, Comparison, Margin
from accede.policies.service import ModelService, Unit

# The service of the language's reference. Lines marked LATER are part of the language, not of this version.
SERVICE = """\
format: accede/v1
kind: ModelService
name: fraud
match: {path: /v1/models/fraud}          # whole segments: not /v1/models/fraud-eu; host too
protocol: tensorflow-serving             # | kserve-v1 | open-inference | mlflow | torchserve | bentoml | openai | json
versions:
  "42": {url: "http://tf-a:8501", card: {trained_on: transactions-2026-02, digest: "sha256:…"}}
  "43": {url: "http://tf-b:8501", card: {trained_on: transactions-2026-05}}
stable: "42"                             # read once
candidate: "43"                          # optional: changing it in Git starts a rollout by `policy`  # LATER
policy: policies/guarded.yaml
unit: {header: x-user-id, missing: stable}   # or `unit: request`; keyless requests are never analysed
side_effects: none                       # none | shadow-aware | writes (no mirror, retry, fallback)
errors: {status: [500-599], connect: true, timeout: true, body: null}
prediction:
  path: predictions[0].score             # the protocol gives a default
  type: number                           # number | label | labels | vector | text
  range: [0, 1]
  selected: ">= 0.5"                     # what selection_* counts
  agree_within: 0.05                     # labels, text: equality
uncertainty: {path: "predictions[0].std"}
slices:
  sex:      {path: "instances[0].sex", values: [female, male], reference: male}
  age_band: {path: "instances[0].age", bins: [0, 25, 40, 60]}   # [0,25) … [60,inf), rest `other`
  sex_age:  {cross: [sex, age_band]}
metrics:
  refused: {path: "predictions[0].refused", type: share}        # yours; or number with range
contract: {id: fraud-3, schema: contracts/fraud.schema.json, mode: report}   # LATER
limits: {deadline: 2s, body: 8MiB, per_key_rps: 200}
capture: {request: 64KiB, response: 256KiB, sample: 100%}
mirror: {max_in_flight: 256, max_bytes: 64MiB, max_rps: 500, min_coverage: 95%}
"""

POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: guarded
risk: {false_rollback: 5%, false_promotion: 5%}    # over the whole rollout, however often it is looked at
baseline: {requests: 1000, for: 10m}     # stable alone first: freezes scales and thresholds
max_duration: 15d
steps:                                   # one verb each; `for`, `requests` are minima, `deadline` a maximum
  - {shadow: 100%, until: gates, for: 15m, deadline: 24h}
  - {canary: 1%,  for: 10m, requests: 500}
  - {canary: 5%,  for: 10m, requests: 500, mirror_back: 20%}
  - {approve: {group: model-risk, count: 2, not_starter: true, valid_for: 24h}}
  - {canary: 25%, for: 10m, requests: 500}
  - {canary: 50%, until: gates, deadline: 48h}
gates:                                   # in: shadow | canary (default both); require: proof | no-harm | nothing
  - {metric: errors, max_increase: 0.5pp, max_ratio: 1.5}       # fails only if both are exceeded
  - {metric: latency.p99, max_ratio: 1.2, in: canary}
  - {metric: prediction.mean, max_shift: 0.1sd}
  - {metric: prediction.missing, max_increase: 0.1pp}
  - {metric: prediction.agreement, min: 95%, in: shadow}
  - {metric: prediction.distribution, max_shift: 5pp}
  - {metric: selection_rate, by: sex, max_shift: 3pp, on_fail: pause, small_slices: hold}   # hold | pool | no-harm
  - {metric: selection_ratio, by: sex, min: 0.8, or: not_worse_than_stable}
  - {metric: outcome.brier, max_increase: 0.01, labels: {mature_after: 7d}, require: no-harm}
breaker: {errors: 20%, over: 10s, min_requests: 20}
on_fail: rollback                        # rollback | pause
on_inconclusive: pause                   # at a deadline: pause | rollback. Never promote
on_error: {action: rollback, after: 15m}
unattended: {action: rollback, after: 15m}
windows: [{allow: "Mon-Thu 09:00-16:00", zone: Europe/Berlin}, {deny: "2026-12-20/2027-01-06", zone: Europe/Berlin}]  # LATER
bake: {for: 24h, holdback: 5%}           # LATER
hooks:  # LATER
  - {when: [step_done, failed, promoted], webhook: "https://…", secret: "env:HOOK_SECRET"}  # LATER
"""

DEMO = """\
format: accede/v1
kind: RolloutPolicy
name: demo
baseline: {requests: 500, for: 2s}
batch: 1s
steps:
  - {shadow: 100%, until: gates, for: 3s, deadline: 30s}
  - {canary: 20%, for: 3s, requests: 200}
  - {canary: 50%, until: gates, for: 20s, deadline: 60s}
gates:
  - {metric: errors, max_increase: 1pp, in: canary}
  - {metric: latency.p95, max_ratio: 1.5, in: canary}
  - {metric: prediction.mean, max_shift: 0.15sd, in: shadow}
  - {metric: prediction.agreement, min: 90%, in: shadow}
  - {metric: selection_rate, by: sex, max_shift: 5pp, in: shadow}
"""


def today(text: str) -> str:
    """The part of a reference file that this version reads."""
    lines = (line for line in text.splitlines() if "# LATER" not in line)
    return "\n".join(lines).replace(", per_key_rps: 200", "") + "\n"


def keys_refused(text: str) -> dict[str, str]:
    parse = parse_service if "ModelService" in text else parse_policy
    with pytest.raises(FileError) as raised:
        parse(text)
    return {problem.key: problem.message for problem in raised.value.problems}


def test_every_later_key_of_the_service_reference_is_refused_and_nothing_else() -> None:
    refused = keys_refused(SERVICE)
    assert set(refused) == {
        "candidate",
        "contract",
        "limits.per_key_rps",
    }
    assert all("not supported yet" in message for message in refused.values())


def test_every_later_key_of_the_policy_reference_is_refused_and_nothing_else() -> None:
    refused = keys_refused(POLICY)
    assert set(refused) == {
        "windows",
        "bake",
        "hooks",
    }
    assert all("not supported yet" in message for message in refused.values())


def test_the_service_reference() -> None:
    service = parse_service(today(SERVICE))
    assert service.versions["42"].card["digest"] == "sha256:…"
    assert service.versions["43"].addresses == ("http://tf-b:8501",)
    assert service.unit == Unit(header="x-user-id", missing="stable")
    assert service.unit.sticky
    assert service.errors.status == ((500, 599),)
    assert service.prediction.range == (0.0, 1.0)
    assert service.prediction.selected == Comparison(operator=">=", operand=0.5)
    assert service.slices["sex"].values == ("female", "male")
    assert service.slices["age_band"].bins == (0.0, 25.0, 40.0, 60.0)
    assert service.slices["sex_age"].cross == ("sex", "age_band")
    assert groups_of_slice("sex_age", service.slices)[:2] == ("female/[0,25)", "female/[25,40)")
    assert len(groups_of_slice("sex_age", service.slices)) == 8
    assert (service.limits.deadline, service.limits.body) == (2.0, 8 * 2**20)
    assert (service.capture.request, service.capture.sample) == (64 * 2**10, 1.0)
    assert (service.mirror.max_bytes, service.mirror.min_coverage) == (64 * 2**20, 0.95)


def test_the_policy_reference() -> None:
    policy = parse_policy(today(POLICY))
    assert [(step.place, step.share, step.least_seconds, step.deadline) for step in policy.steps] == [
        ("shadow", 1.0, 900.0, 86400.0),
        ("canary", 0.01, 600.0, None),
        ("canary", 0.05, 600.0, None),
        ("approve", 0.0, 0.0, None),
        ("canary", 0.25, 600.0, None),
        ("canary", 0.5, 600.0, 172800.0),
    ]
    assert [step.until_gates for step in policy.steps] == [True, False, False, False, False, True]
    asked = policy.steps[3].approve
    assert asked == Approve(group="model-risk", count=2, not_starter=True, valid_for=86400.0)
    assert policy.traffic(3) is policy.steps[2], "traffic stays as the step before leaves it"
    assert policy.gates[0].max_increase == Margin(value=0.005, unit="pp")
    assert policy.gates[1].place == "canary"
    assert policy.gates[2].max_shift == Margin(value=0.1, unit="sd")
    assert policy.gates[4].min == 0.95
    assert policy.breaker == Breaker(errors=0.2, over=10.0, min_requests=20)
    assert policy.on_error == Clock(action="rollback", after=900.0)


def test_the_demo_policy() -> None:
    policy = parse_policy(DEMO)
    assert (policy.batch, policy.baseline.duration, policy.baseline.requests) == (1.0, 2.0, 500)
    # A margin that is given stands alone: the default factor of `errors` does not join it.
    assert policy.gates[0].max_increase == Margin(value=0.01, unit="pp")
    assert policy.gates[0].max_ratio is None
    assert {line.partition(":")[0] for line in advice(policy)} == {
        "steps[1].requests",
        "steps[1].for",
        "steps[2].for",
    }


@pytest.mark.parametrize(
    ("version", "count"),
    [
        ("{url: 'http://[::1]:80'}", 1),
        ("{url: http://a}", 1),
        ("{url: 'https://a:8443'}", 1),
        ("{urls: ['http://a.b-c:1']}", 1),
        ("{urls: ['http://a:1', 'https://a:2', 'http://b:1']}", 3),
        ("{url: 'https://a', tls: {ca: /etc/ca.pem, server_name: models.internal}}", 1),
        ("{url: 'https://a', tls: {certificate: /etc/c.pem, key: /etc/k.pem}}", 1),
        ("{url: 'https://a', tls: {verify: false}}", 1),
    ],
)
def test_addresses(version: str, count: int) -> None:
    text = today(SERVICE).replace(
        '{url: "http://tf-b:8501", card: {trained_on: transactions-2026-05}}', version
    )
    assert len(parse_service(text).versions["43"].addresses) == count


@pytest.mark.parametrize(
    "path", ["score", "[0]", "[*].score", "predictions[*]", "a.b[0][1].c-d", "predictions[0].scöre", "$"]
)
def test_prediction_paths(path: str) -> None:
    text = today(SERVICE).replace("predictions[0].score ", f'"{path}" ')
    text = text.replace("protocol: tensorflow-serving", "protocol: json")
    assert parse_service(text).prediction.path == path


def test_small_services_take_every_default() -> None:
    text = "format: accede/v1\nkind: ModelService\nname: a\nmatch: {host: a.example}\nprotocol: json\n"
    text += 'versions: {"1": {url: "http://a:1"}}\nstable: "1"\nunit: request\ncontract: {mode: none}\n'
    service = parse_service(text)
    assert not service.unit.sticky
    assert service.candidate is None
    assert service.side_effects == "writes"
    assert service.errors.status == ((500, 599),)


def test_labels_are_compared_as_text() -> None:
    text = today(SERVICE).replace("type: number ", "type: label ").replace('">= 0.5"', '"== 1"')
    text = text.replace("  range: [0, 1]\n", "").replace("  agree_within: 0.05 ", "  # ")
    text = text.replace('uncertainty: {path: "predictions[0].std"}\n', "")
    assert parse_service(text).prediction.selected == Comparison(operator="==", operand="1")


def gates(*written: str) -> RolloutPolicy:
    text = "format: accede/v1\nkind: RolloutPolicy\nname: p\nsteps: [{shadow: 10%}, {canary: 10%}]\ngates:\n"
    return parse_policy(text + "".join(f"  - {{{gate}}}\n" for gate in written))


def test_default_margins_fill_gates_that_give_none() -> None:
    policy = gates(
        "metric: errors",
        "metric: latency.p50",
        "metric: latency.p99",
        "metric: prediction.mean",
        "metric: selection_rate",
    )
    given = [(gate.max_increase, gate.max_ratio, gate.max_shift) for gate in policy.gates]
    assert given == [
        (Margin(value=0.005, unit="pp"), 1.5, None),
        (None, 1.1, None),
        (None, 1.2, None),
        (None, None, Margin(value=0.1, unit="sd")),
        (None, None, Margin(value=0.03, unit="pp")),
    ]


@pytest.mark.parametrize(
    ("gate", "value"),
    [
        ("metric: errors, harm_at: 0.2pp", Margin(value=0.002, unit="pp")),
        ("metric: errors, harm_at: 1.2", Margin(value=1.2, unit="plain")),
        ("metric: errors, harm_at: 0pp", Margin(value=0.0, unit="pp")),
        ("metric: latency.p95, max_ratio: 2, harm_at: 1", Margin(value=1.0, unit="plain")),
        ("metric: prediction.mean, max_shift: 0.3, harm_at: 0.1", Margin(value=0.1, unit="plain")),
    ],
)
def test_harm_at_below_the_margin_of_its_unit(gate: str, value: Margin) -> None:
    assert gates(gate).gates[0].harm_at == value


def test_one_metric_may_be_judged_differently_in_each_place() -> None:
    policy = gates(
        "metric: errors, max_increase: 1pp, in: shadow", "metric: errors, max_increase: 2pp, in: canary"
    )
    assert [gate.place for gate in policy.gates] == ["shadow", "canary"]


def test_no_breaker() -> None:
    assert parse_policy(DEMO + "breaker: null\n").breaker is None


@pytest.mark.parametrize("text", [today(POLICY), DEMO, DEMO + "breaker: null\n"])
def test_a_policy_is_rebuilt_from_its_canonical_form(text: str) -> None:
    policy = parse_policy(text)
    rebuilt = policy_from_canonical(canonical(policy))
    assert rebuilt == policy
    assert canonical(rebuilt) == canonical(policy)
    assert policy_hash(rebuilt) == policy_hash(policy)


def test_a_service_is_rebuilt_from_its_canonical_form() -> None:
    service = parse_service(today(SERVICE))
    assert service_from_canonical(canonical(service)) == service


def test_the_hash_follows_the_values_not_the_writing() -> None:
    same = (
        DEMO.replace("1pp", "1.0pp").replace("for: 2s", "for: 2000ms") + "# a comment\nmax_duration: 168h\n"
    )
    assert policy_hash(parse_policy(same)) == policy_hash(parse_policy(DEMO))
    assert policy_hash(parse_policy(DEMO.replace("90%", "91%"))) != policy_hash(parse_policy(DEMO))
    assert len(policy_hash(parse_policy(DEMO))) == 64


@pytest.mark.parametrize(
    "name", ["guarded", "fast", "fairness-regulated", "llm", "low-traffic", "shadow-only"]
)
def test_library_policies_survive_their_canonical_form(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name
    assert policy_from_canonical(canonical(policy)) == policy


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "nonsense", '{"format":"accede/v1","kind":"RolloutPolicy","name":"a"}']
)
def test_a_broken_stored_form_is_a_wire_error(text: str) -> None:
    with pytest.raises(WireError, match="a stored RolloutPolicy cannot be read"):
        policy_from_canonical(text)


def test_a_broken_stored_status_range_is_a_wire_error() -> None:
    stored = canonical(parse_service(today(SERVICE)))
    for broken in ("[[500]]", '[["a","b"]]', "[[500,null]]", "[{}]"):
        with pytest.raises(WireError, match=r"first errors\.status"):
            service_from_canonical(stored.replace("[[500,599]]", broken))


def test_code_may_build_values_without_units() -> None:
    service = ModelService.model_validate(
        {"format": "accede/v1", "kind": "ModelService", "name": "a", "match": {"path": "/a"}, "protocol": "json",
         "versions": {"1": {"url": "http://a:1"}}, "stable": "1", "limits": {"deadline": 2.5}}
    )  # fmt: skip
    assert service.limits.deadline == 2.5


APPROVED = "format: accede/v1\nkind: RolloutPolicy\nname: p\ngates: [{metric: errors}]\nsteps:\n"


def test_an_approve_step_says_as_little_as_it_needs() -> None:
    text = f"{APPROVED}  - {{canary: 5%}}\n  - {{approve: {{}}}}\n  - {{canary: 50%}}\n"
    policy = parse_policy(text)
    asked = policy.steps[1].approve
    assert asked is not None
    assert (asked.group, asked.count, asked.not_starter, asked.valid_for) == (None, 1, True, 86400.0)
    assert (policy.steps[1].least_requests, policy.steps[1].deadline) == (0, None)


def test_approve_steps_may_follow_each_other_and_come_last_with_a_deadline() -> None:
    steps = ["{shadow: 100%}", "{canary: 50%}", "{approve: {group: risk}}",
             "{approve: {group: law, count: 2}, deadline: 5m}"]  # fmt: skip
    policy = parse_policy(APPROVED + "".join(f"  - {step}\n" for step in steps))
    assert [policy.traffic(number).place for number in range(4)] == ["shadow", "canary", "canary", "canary"]
    assert [step.place for step in policy.without_approvals().steps] == ["shadow", "canary"]
    assert policy.steps[3].text == "approve by 2 of law, not the starter, valid for 1d"
    assert policy_from_canonical(canonical(policy)) == policy


def test_a_policy_stored_before_there_were_approvals_is_read() -> None:
    policy = parse_policy(APPROVED + "  - {canary: 50%}\n")
    text = canonical(policy)
    assert '"approve":null,' in text
    assert policy_from_canonical(text.replace('"approve":null,', "")) == policy
