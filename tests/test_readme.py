"""What the README shows is so: its files load and fit, its commands parse, its diagram is the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.core
import typer.main

from accede.cli.main import app
from accede.controller.rollout.machine import diagram
from accede.policies.load import load_directory

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/README.md"))]
README = PAGES[0].read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line of a page, and every word in backticks, that calls the command."""
    found: list[str] = []
    for page in PAGES:
        text = page.read_text()
        found += re.findall(r"^(?:\$ )?(accede .+)$", text, re.MULTILINE)
        found += re.findall(r"`(accede [^`\n]+)`", text)
    return sorted(set(found))


def test_there_are_files_and_commands_to_check() -> None:
    assert len(blocks("yaml")) == 2
    assert len(commands()) > 15


def test_its_files_load_and_fit_each_other(tmp_path: Path) -> None:
    service, policy = blocks("yaml")
    (tmp_path / "credit.yaml").write_text(service)
    (tmp_path / "credit-policy.yaml").write_text(policy)
    loaded = load_directory(tmp_path)
    assert loaded.problems == ()
    assert loaded.pairs == {"credit": "credit"}


@pytest.mark.parametrize("line", commands())
def test_a_command_line_parses(line: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    _, *words = shlex.split(line)
    if words[0].startswith("--"):
        assert words[0] in {name for parameter in group.params for name in parameter.opts}
        return
    verb = group.commands[words[0]]
    if len(words) == 1:
        return  # the verb is only named
    verb.make_context(words[0], words[1:])


@pytest.mark.parametrize("script", sorted(set(re.findall(r"^\$ (scripts/\S+)$", README, re.MULTILINE))))
def test_a_script_is_there_and_can_be_run(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111


def test_its_state_diagram_is_the_table_of_the_state_machine() -> None:
    assert diagram().strip() in [block.strip() for block in blocks("mermaid")]


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_library_policies_exist() -> None:
    for name in ("guarded", "fast", "fairness-regulated", "llm", "low-traffic", "shadow-only"):
        assert f"`{name}`" in README
        assert (ROOT / "policies" / "library" / f"{name}.yaml").is_file()
