"""The policies that ship inside the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from accede.errors import FileError, NotFound
from accede.policies import library
from accede.policies.load import load_policy, parse_service
from accede.policies.pair_rules import check_pair


def test_the_names() -> None:
    assert library.names() == ("fairness-regulated", "fast", "guarded", "llm", "low-traffic", "shadow-only")


def test_a_shadow_only_policy_has_no_step_that_users_see() -> None:
    assert {step.place for step in load_policy("shadow-only").steps} == {"shadow"}
    assert "holds in pause until an operator promotes" in " ".join(
        library.read("shadow-only").replace("#", "").split()
    )


SERVICE = """
format: accede/v1
kind: ModelService
name: s
match: {path: /s}
versions: {"1": {url: "http://a"}, "2": {url: "http://b"}}
stable: "1"
side_effects: shadow-aware
"""


def test_the_policy_for_language_models_needs_the_noise_floor() -> None:
    llm = load_policy("llm")
    wanted = {"stream.first_token.p95", "stream.truncated", "tokens.output", "prediction.divergence"}
    assert wanted <= {gate.metric for gate in llm.gates}
    floor = "protocol: openai\nprediction: {type: text}\nmirror: {noise_floor: 10%}\n"
    assert check_pair(parse_service(SERVICE + floor), llm) == ()
    (problem,) = check_pair(parse_service(SERVICE + "protocol: openai\nprediction: {type: text}\n"), llm)
    assert "write mirror: {noise_floor: 10%}" in problem.message


def test_the_policy_for_low_traffic_needs_no_slices_and_one_weight() -> None:
    low = load_policy("low-traffic")
    assert [step.share for step in low.steps if step.place == "canary"] == [0.5]
    assert all(gate.by is None for gate in low.gates)
    for prediction in ("{type: number, agree_within: 0.1}", "{type: label}"):
        text = f"{SERVICE}protocol: kserve-v1\nprediction: {prediction}\n"
        assert check_pair(parse_service(text), low) == ()


def test_the_policy_for_decisions_about_people_needs_a_slice_and_what_is_selected() -> None:
    policy = load_policy("fairness-regulated")
    gates = {gate.metric: gate for gate in policy.gates}
    assert {gate.by for name, gate in gates.items() if name.startswith("selection_")} == {"protected"}
    assert gates["selection_ratio"].or_else == "not_worse_than_stable"
    declared = (
        'prediction: {path: "predictions[0]", selected: ">= 0.5"}\n'
        "slices: {protected: {path: sex, values: [female, male], reference: male}}\n"
    )
    assert check_pair(parse_service(f"{SERVICE}protocol: kserve-v1\n{declared}"), policy) == ()
    problems = check_pair(parse_service(f"{SERVICE}protocol: kserve-v1\n"), policy)
    assert any("selection_gap needs prediction.selected" in one.message for one in problems)
    assert any("no such slice 'protected'" in one.message for one in problems)


def test_an_unknown_name() -> None:
    with pytest.raises(
        NotFound,
        match=r"no library policy '\.\./guarded'; there are: fairness-regulated, fast, guarded, llm, ",
    ):
        library.read("../guarded")
    with pytest.raises(
        FileError,
        match="no such file or library policy; did you mean 'guarded'\\? the library has: fairness-reg",
    ):
        load_policy("garded")
    with pytest.raises(FileError, match=r"x/garded.yaml:1:1: no such file$"):
        load_policy("x/garded.yaml")


def test_a_file_is_meant_where_a_path_is_given(tmp_path: Path) -> None:
    path = tmp_path / "guarded"
    path.write_text(library.read("fast"))
    assert load_policy(path).name == "fast"
    assert load_policy(str(path)).name == "fast"
