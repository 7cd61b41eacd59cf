"""The JSON Schemas accept what is right, and know every key of the language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from accede.policies import library
from accede.policies.later import LATER_KEYS
from accede.policies.reading import keys_of
from accede.policies.schema import DIALECT, policy_schema, service_schema
from accede.policies.yaml import load_yaml

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": tuple,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
# What a keyword says about a value whose type is right.
SIMPLE: dict[str, Callable[[Any, Any], bool]] = {
    "const": lambda rule, value: value == rule,
    "enum": lambda rule, value: value in rule,
    "pattern": lambda rule, value: re.search(rule, value) is not None,
    "not": lambda rule, value: rule != {},
    "required": lambda rule, value: set(rule) <= set(value),
    "minItems": lambda rule, value: len(value) >= rule,
    "maxItems": lambda rule, value: len(value) <= rule,
    "minProperties": lambda rule, value: len(value) >= rule,
    "minimum": lambda rule, value: value >= rule,
    "exclusiveMinimum": lambda rule, value: value > rule,
    "exclusiveMaximum": lambda rule, value: value < rule,
    "maximum": lambda rule, value: value <= rule,
}
READ_ELSEWHERE = {"type", "$schema", "$defs", "title", "description", "examples"}


def is_of_type(name: str | None, value: object) -> bool:
    return name is None or (
        isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
    )


def errors(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> list[str]:
    """What a schema says about a value, for the keywords that ours use; any other keyword fails the test."""
    if not is_of_type(schema.get("type"), value):
        return [f"{value} is no {schema['type']}"]
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword in SIMPLE:
            found += [] if SIMPLE[keyword](rule, value) else [f"{keyword} {rule}: {value}"]
        elif keyword in {"anyOf", "oneOf"}:
            fits = sum(not errors(part, value, root) for part in rule)
            found += [] if fits == 1 or (fits and keyword == "anyOf") else [f"{keyword}: {fits} fit {value}"]
        elif keyword == "$ref":
            found += errors(root["$defs"][rule.removeprefix("#/$defs/")], value, root)
        else:
            for part, item in inside(keyword, rule, schema, value):
                found += errors(part, item, root)
    return found


def inside(
    keyword: str, rule: Any, schema: dict[str, Any], value: Any
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The parts of a value, each with the schema that it has to fit."""
    if keyword == "properties":
        yield from ((part, value[key]) for key, part in rule.items() if key in value)
    elif keyword == "additionalProperties":
        others = [value[key] for key in value if key not in schema.get("properties", {})]
        yield from (({"not": {}} if rule is False else rule, other) for other in others)
    elif keyword == "items":
        yield from ((rule, item) for item in value)
    elif keyword == "prefixItems":
        yield from zip(rule, value, strict=False)
    else:
        assert keyword in READ_ELSEWHERE, keyword


def checked(schema: dict[str, Any], text: str) -> list[str]:
    return errors(schema, load_yaml(text, "f.yaml").data, schema)


SERVICE = """\
format: accede/v1
kind: ModelService
name: fraud
match: {path: /v1/models/fraud}
protocol: tensorflow-serving
versions:
  "42": {url: "http://tf-a:8501", card: {trained_on: transactions-2026-02}}
stable: "42"
policy: null
unit: {header: x-user-id, missing: stable}
errors: {status: [500-599, 429], connect: true, body: null}
prediction: {path: "predictions[0].score", type: number, range: [0, 1], selected: ">= 0.5"}
slices:
  sex: {path: "instances[0].sex", values: [female, male], reference: male}
  age: {path: "instances[0].age", bins: [0, 25.5]}
contract: {mode: none}
limits: {deadline: 2s, body: 8MiB}
capture: {request: 64KiB, sample: 12.5%}
mirror: {max_in_flight: 256, max_rps: 0.5}
"""

POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: p
risk: {false_rollback: 5%}
baseline: {requests: 500, for: 2s}
steps: [{shadow: 100%, until: gates, for: 3s, deadline: 30s}, {canary: 20%, requests: 200},
        {approve: {group: model-risk, count: 2, not_starter: true, valid_for: 24h}, deadline: 7d},
        {approve: {}}]
gates:
  - {metric: errors, max_increase: 0.5pp, max_ratio: 1.5, harm_at: 0.1pp}
  - {metric: selection_rate, by: sex, max_shift: 5pp, in: shadow, require: no-harm, on_fail: pause}
  - {metric: errors, by: sex, small_slices: hold}
  - {metric: prediction.mean, max_shift: 0.1}
  - {metric: prediction.agreement, min: 95%}
breaker: null
on_error: {action: pause, after: 500ms}
"""


def test_right_files_are_accepted() -> None:
    assert checked(service_schema(), SERVICE) == []
    assert checked(service_schema(), SERVICE.replace("{header: x-user-id, missing: stable}", "request")) == []
    assert checked(policy_schema(), POLICY) == []


@pytest.mark.parametrize("name", library.names())
def test_the_library_is_accepted(name: str) -> None:
    assert checked(policy_schema(), library.read(name)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: fraud", "name: Fraud"),
        ("protocol: tensorflow-serving", "protocol: grpc"),
        ("deadline: 2s", "deadline: 2"),
        ("8MiB", "8MB"),
        ("500-599", "5xx"),
        ("type: number", "type: words"),
        ("contract: {mode: none}", "contract: {mode: report}"),
        ('stable: "42"\n', ""),
        ("bins: [0, 25.5]", "bins: [0]"),
        ("{path: /v1/models/fraud}", "{}"),
        ("max_rps: 0.5", "max_rps: 0"),
        ("x-user-id, missing: stable}", "x-user-id, mising: stable}"),
        ("limits: {", "limits: {per_key_rps: 5, "),
    ],
)  # fmt: skip
def test_wrong_services_are_refused(old: str, new: str) -> None:
    assert old in SERVICE
    assert checked(service_schema(), SERVICE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("shadow: 100%", "shadow: 1.0"),
        ("{canary: 20%", "{canary: 20%, shadow: 20%"),
        ("{canary: 20%", "{canary: 20%, mirror_back: 0.2"),
        ("{approve: {}}", "{approve: {}, canary: 20%}"),
        ("count: 2", "count: 0"),
        ("group: model-risk", "group: Model Risk"),
        ("group: model-risk", "people: [anna]"),
        ("metric: errors", "metric: outcome.f1"),
        ("max_increase: 0.5pp", "max_increase: 0.5%"),
        ("max_ratio: 1.5", "max_ratio: 1"),
        ("small_slices: hold", "small_slices: pol"),
        ("on_error: {action: pause, after: 500ms}", "on_error: {action: pause}"),
        ("breaker: null", "windows: []"),
        ("breaker: null", "brake: null"),
        ("kind: RolloutPolicy", "kind: ModelService"),
    ],
)
def test_wrong_policies_are_refused(old: str, new: str) -> None:
    assert old in POLICY
    assert checked(policy_schema(), POLICY.replace(old, new))


@pytest.mark.parametrize("schema", [service_schema(), policy_schema()], ids=["service", "policy"])
def test_every_key_is_described_as_it_is_written(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == DIALECT
    for name, part in {"": schema, **schema["$defs"]}.items():
        assert part["additionalProperties"] is False
        for key, value in part["properties"].items():
            described = value.get("description") or value["anyOf"][0]["description"]
            assert described, (name, key)
            assert "default" not in value, "a default in stored units would mislead"


def test_later_keys_are_there_and_say_so() -> None:
    parts = {"ModelService": service_schema(), "RolloutPolicy": policy_schema()}
    parts |= service_schema()["$defs"] | policy_schema()["$defs"]
    for model, keys in LATER_KEYS.items():
        properties = parts[model.__name__]["properties"]
        assert set(keys_of(model)) <= set(properties)
        for key in keys:
            assert properties[key]["description"].startswith("Not supported yet; ")
