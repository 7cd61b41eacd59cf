"""Every verb explains itself, refuses what it does not know with exit 2, and loads nothing heavy for it."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.core
import typer.main

from accede import __version__
from accede.cli.main import app
from accede.cli.options import seconds_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]

VERBS = (
    *("demo", "serve", "router", "controller"),
    *(
        "init",
        "validate",
        "schema",
        "plan",
        "check",
        "simulate",
        "feedback",
        "token",
        "start",
        "status",
        "list",
        "pause",
        "resume",
        "promote",
        "approve",
        "abort",
        "history",
        "explain",
    ),
)
NEEDS_AN_ARGUMENT = tuple(verb for verb in VERBS[4:] if verb != "list")
PRINTS_A_RESULT = tuple(verb for verb in VERBS if verb not in {"serve", "router", "controller"})


def command(verb: str) -> typer.core.TyperCommand:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = group.commands[verb]
    assert isinstance(found, typer.core.TyperCommand)
    return found


def test_the_verbs_are_these() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    assert set(group.commands) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_flag_has_help(verb: str) -> None:
    found = command(verb)
    assert found.help
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"{verb} {parameter.name} has no help"


@pytest.mark.parametrize("verb", PRINTS_A_RESULT)
def test_every_verb_with_a_result_prints_it_in_three_formats(verb: str) -> None:
    options = {name for parameter in command(verb).params for name in parameter.opts}
    assert {"--output", "-o"} <= options


@pytest.mark.parametrize("verb", PRINTS_A_RESULT)
def test_every_flag_of_the_environment_is_named_accede(verb: str) -> None:
    for parameter in command(verb).params:
        names = parameter.envvar or ()
        for name in (names,) if isinstance(names, str) else names:
            assert name.startswith("ACCEDE_")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000.0), ("36h", 129_600.0), ("1s", 1.0), ("5m", 300.0), ("forever", math.inf)],
)
def test_how_long_decisions_are_kept(text: str, seconds: float) -> None:
    assert seconds_of("--keep-decisions", text) == seconds


@pytest.mark.parametrize("text", ["", "0d", "90", "-1d", "1.5d", "90 d", "ever", "9999999d"])
def test_a_time_that_means_nothing_is_refused_before_anything_starts(
    accede: Run, tmp_path: Path, text: str
) -> None:
    refused = accede("controller", "--keep-decisions", text, "--data", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert "--keep-decisions is" in refused.stderr
    assert "90d, or forever" in refused.stderr
    assert not (tmp_path / "data").exists()


def test_version(accede: Run) -> None:
    shown = accede("--version")
    assert (shown.returncode, shown.stdout) == (0, f"accede {__version__}\n")


def test_help_of_the_command_names_every_verb(accede: Run) -> None:
    shown = accede("--help")
    assert shown.returncode == 0
    for verb in VERBS:
        assert f"  {verb} " in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("start", "--no-such-flag"),
        ("start", "credit"),  # without --candidate
        ("list", "-o", "xml"),
        ("list", "--timeout", "soon"),
        ("serve",),  # without --services
        ("demo", "--scenario", "terrible"),
        ("schema", "rollout"),
        ("explain", "credit", "--decision", "0"),
        *((verb,) for verb in NEEDS_AN_ARGUMENT if verb != "start"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_exit_2_and_says_what_is_wrong(accede: Run, arguments: tuple[str, ...]) -> None:
    refused = accede(*arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "Error: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_flag_goes_before_the_environment_and_the_environment_before_the_default(accede: Run) -> None:
    by_default = accede("list")
    by_environment = accede("list", ACCEDE_API="http://127.0.0.1:1")
    by_flag = accede("list", "--api", "http://127.0.0.1:2", ACCEDE_API="http://127.0.0.1:1")
    assert "http://127.0.0.1:9090" in by_default.stderr or by_default.returncode == 0
    assert "http://127.0.0.1:1:" in by_environment.stderr
    assert "http://127.0.0.1:2:" in by_flag.stderr


def test_completion_is_offered_by_the_shell(accede: Run) -> None:
    completed = accede(_ACCEDE_COMPLETE="complete_bash", COMP_WORDS="accede pro", COMP_CWORD="1")
    assert completed.stdout.split() == ["promote"]
