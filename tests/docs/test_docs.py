"""What docs/ says is so: files load, commands parse, links lead somewhere, generated parts are current."""

from __future__ import annotations

import re
import runpy
import shlex
import sqlite3
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from accede.controller.analysis import divergence, gaps, methods
from accede.controller.rollout.machine import paused_hold
from accede.errors import AccedeError
from accede.policies.later import LATER_KEYS, LATER_VALUES
from accede.policies.load import parse_policy, parse_service, require_pair
from accede.policies.metrics import METRICS
from accede.policies.policy import RolloutPolicy
from accede.policies.quantities import Value
from accede.policies.reading import keys_of
from accede.policies.service import ModelService
from accede.policies.tokens import parse_tokens
from accede.store.open import open_store
from accede.store.rollouts import Hold, Outcome

ROOT = Path(__file__).resolve().parents[2]
REFERENCE: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "reference.py"))
DOCS = sorted((ROOT / "docs").rglob("*.md"))
GUIDES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *DOCS,
    *sorted((ROOT / "examples").glob("*/README.md")),
]

SERVICE = {
    "format": "accede/v1", "kind": "ModelService", "name": "fragment", "match": "{path: /fragment}",
    "protocol": "kserve-v1", "versions": '{"1": {url: "http://a:1"}}', "stable": '"1"',
}  # fmt: skip
POLICY = {
    "format": "accede/v1", "kind": "RolloutPolicy", "name": "fragment",
    "steps": "[{shadow: 100%}, {canary: 50%, until: gates}]", "gates": "[{metric: errors}]",
}  # fmt: skip


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- files


def yaml_blocks() -> list[Any]:
    """Every YAML block with the comment on the line before it, which a fragment needs."""
    blocks: list[Any] = []
    for path in (ROOT / "README.md", *DOCS):
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(
            r"(?:<!-- ([^\n]*?) -->\n)?^```ya?ml\n(.*?)^```", text, re.MULTILINE | re.DOTALL
        ):
            line = text.count("\n", 0, found.start()) + 1
            blocks.append(pytest.param(found[1], found[2], id=f"{named(path)}:{line}"))
    return blocks


def completed(fragment: str, whole: dict[str, str]) -> str:
    """A fragment of top-level keys with the rest of a file before it."""
    given = set(re.findall(r"^([a-z_]+):", fragment, re.MULTILINE))
    return "".join(f"{key}: {value}\n" for key, value in whole.items() if key not in given) + fragment


@pytest.mark.parametrize(("marker", "text"), yaml_blocks())
def test_a_yaml_block_loads(marker: str | None, text: str) -> None:
    if marker is not None and marker.startswith("not loaded:"):
        assert marker.removeprefix("not loaded:").strip(), "say why"
        return
    if marker == "fragment: service":
        text = completed(text, SERVICE)
    elif marker == "fragment: policy":
        text = completed(text, POLICY)
    if "kind: ModelService" in text:
        parse_service(text)
    elif "kind: ApiTokens" in text:
        parse_tokens(text, "tokens.yaml")
    else:
        parse_policy(text)


def test_the_service_and_the_policy_of_the_reference_fit_each_other() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", page("policies.md"), re.MULTILINE | re.DOTALL)
    (service,) = (parse_service(text) for text in blocks if "kind: ModelService" in text)
    (policy,) = (parse_policy(text) for text in blocks if "kind: RolloutPolicy" in text)
    require_pair(service, policy)


def test_what_is_said_to_be_not_supported_is_refused_so() -> None:
    with pytest.raises(AccedeError, match="not supported yet"):
        parse_policy(completed("gates: [{metric: latency.p95, max_increase: 20ms}]\n", POLICY))


# --- keys, metrics, flags


def models(kind: type[Value]) -> set[type[Value]]:
    return {model for _, model in REFERENCE["sections"](kind)}


@pytest.mark.parametrize("kind", [ModelService, RolloutPolicy])
def test_every_key_is_documented(kind: type[Value]) -> None:
    text = page("policies.md")
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    refused = set(re.findall(r"^\| (?:service|policy) \| `(?:\S*\.)?([a-z_]+)` \|", text, re.MULTILINE))
    # Found in the schema as well, so that no model is missed by the walk that writes the tables.
    assert {model.__name__ for model in models(kind)} >= set(kind.model_json_schema().get("$defs", {})) - {
        "Margin",
        "Comparison",
    }
    for model in models(kind):
        later = set(LATER_KEYS.get(model, {}))
        assert set(keys_of(model)) - later <= rows, model.__name__
        assert later | set(LATER_VALUES.get(model, {})) <= refused, model.__name__


def test_every_metric_is_documented_with_its_method() -> None:
    reference, statistics = page("policies.md"), page("statistics.md")
    for metric in METRICS:
        assert f"`{metric.name}`" in reference
        assert f"`{metric.name}`" in statistics, metric.name


def test_every_method_and_verdict_is_explained() -> None:
    text = " ".join(page("statistics.md").split())
    for method in (
        methods.BOUNDED, methods.FEW, methods.TIME, methods.UNITS, methods.BATCHES,
        divergence.DIVERGENCE,
        gaps.GROUPS, gaps.GROUP_UNITS, gaps.GROUP_BATCHES, gaps.HALVES,
    ):  # fmt: skip
        assert method in text
    for outcome in Outcome:
        assert f"| `{outcome.value}` |" in text


def test_every_validity_check_is_explained() -> None:
    source = "".join(
        (ROOT / "controller" / f"{name}.py").read_text(encoding="utf-8")
        for name in (
            "validity/checks",
            "validity/bodies",
            "validity/coding",
            "validity/ratios",
            "validity/accounts",
            "validity/arrivals",
            "labels/coverage",
        )
    )
    checks = set(re.findall(r'(?:Validity|_covered)\(\s*"([a-z_]+)"', source))
    assert len(checks) > 4
    assert checks == set(
        re.findall(r"^\| `([a-z_]+)` \|", page("statistics.md").partition("## Validity")[2], re.MULTILINE)
    )


def test_every_hold_has_its_clock() -> None:
    kinds = set(typing.get_args(typing.get_type_hints(Hold)["kind"]))
    assert set(typing.get_args(typing.get_type_hints(paused_hold)["kind"])) <= kinds
    table = page("operating.md").partition("| hold |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)) == kinds


def test_every_flag_and_verb_is_documented() -> None:
    text = page("command.md")
    for verb, command in REFERENCE["commands"]().items():
        assert re.search(rf"^\| `{verb}[ `]", text, re.MULTILINE), verb
        for option in REFERENCE["options"](command):
            assert f"`{option.opts[0]}`" in text, f"{verb} {option.opts[0]}"


def test_every_flag_named_exists() -> None:
    known = {
        name
        for command in REFERENCE["commands"]().values()
        for one in REFERENCE["options"](command)
        for name in one.opts
    }
    known |= {"--version", "--install-completion", "--show-completion"}
    for path in GUIDES:
        written = set(
            re.findall(r"(?<![\w-])--[a-z][a-z-]*", without_scripts(path.read_text(encoding="utf-8")))
        )
        assert written <= known, named(path)


def without_scripts(text: str) -> str:
    """A page without its HTML comments and table rules, and without commands that are not ours."""
    return re.sub(r"<!-- .*? -->|^\| ---.*$|^\$ (?!accede).*$|`scripts/[^`]*`", "", text, flags=re.MULTILINE)


def calls() -> list[str]:
    """Every line, and every word in backticks, that calls the command."""
    found: set[str] = set()
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"^\$ (accede .+)$", text, re.MULTILINE))
        found.update(re.findall(r"`(accede [^`\n]+)`", text))
    return sorted(call for call in found if re.match(r"accede (?!router: |observer: )[a-z-]", call))


@pytest.mark.parametrize("call", calls())
def test_a_call_parses(call: str) -> None:
    _, verb, *words = shlex.split(call)
    if verb.startswith("--"):
        assert verb in {"--version", "--install-completion", "--show-completion"}
        return
    command = REFERENCE["commands"]()[verb]
    flags = {name for one in REFERENCE["options"](command) for name in one.opts}
    if any(not word.startswith("-") for word in words):
        command.make_context(
            verb, [*words, "--candidate=1"] if verb == "start" and "--candidate" not in words else words
        )
    else:  # a verb named with a flag only
        assert set(words) <= flags


# --- pages


def test_the_generated_parts_are_current() -> None:
    found = 0
    for name in REFERENCE["PAGES"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        found += len(REFERENCE["PART"].findall(text))
        assert REFERENCE["regenerated"](text) == text, f"{name} is out of date: run scripts/docs"
    assert found == len(REFERENCE["PARTS"])


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKED, ids=named)
def test_its_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_in_an_index() -> None:
    for folder in (ROOT / "docs", ROOT / "docs" / "decisions"):
        index = (folder / "README.md").read_text(encoding="utf-8")
        for path in folder.glob("*.md"):
            assert path.name == "README.md" or f"]({path.name})" in index, named(path)
    for path in GUIDES:
        assert path.name == "README.md" or f"](docs/{path.name})" in (ROOT / "README.md").read_text(
            encoding="utf-8"
        )


def test_every_decision_has_the_form_that_the_index_describes() -> None:
    index = page("decisions/README.md")
    for path in (ROOT / "docs" / "decisions").glob("0*.md"):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        assert title.startswith(f"{path.name[:4]}: "), named(path)
        state = re.search(r"^State: (accepted|replaced by \d{4})$", text, re.MULTILINE)
        assert state is not None, named(path)
        assert f"| [{title}]({path.name}) | {state[1]} |" in index, named(path)
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
            "Situation",
            "Decision",
            "Considered",
            "Consequences",
        ]


def test_the_backup_command_makes_a_store_that_opens(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "accede-data"))
    try:
        (line,) = re.findall(r"^\$ (python3 -c .+)$", page("operating.md"), re.MULTILINE)
        _, *rest = shlex.split(line)
        subprocess.run([sys.executable, *rest], cwd=tmp_path, check=True)
    finally:
        store.close()
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT count(*) FROM rollouts").fetchone() == (0,)
    copy.close()
    open_store(str(tmp_path / "copy.db")).close()
