"""Verbs on files: `validate` and `schema`. No controller is asked."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Format, Output
from .output import emit

if TYPE_CHECKING:
    from rich.console import Console

    from ..errors import Problem
    from ..policies.policy import RolloutPolicy


class Kind(StrEnum):
    """The kinds of files."""

    SERVICE = "service"
    POLICY = "policy"


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(validate)
    app.command()(schema)


def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Service and policy files, or directories of them.", show_default=False, metavar="PATH…"
        ),
    ],
    output: Output = Format.TABLE,
) -> None:
    """Check service and policy files. Names every problem with file, line, column and key; then exit 2."""
    from ..errors import FileError, Problem

    checked: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for path in paths:
        found, wrong = _directory(path) if path.is_dir() else _file(path)
        if not found and not wrong:
            wrong = (
                Problem(str(path), 1, 1, "", "no service or policy file (.yaml, .yml) in this directory"),
            )
        checked.extend(found)
        problems.extend(wrong)
    value = {
        "valid": not problems,
        "files": checked,
        "problems": [
            {"file": p.file, "line": p.line, "column": p.column, "key": p.key, "message": p.message}
            for p in problems
        ],
    }

    def table(console: Console) -> None:
        for entry in checked:
            console.print(f"{entry['kind']} {entry['name']}: fine", markup=False)
            for line in entry.get("advice", ()):
                console.print(f"  consider {line}", markup=False)

    emit(value, output, table)
    if problems:
        raise FileError(tuple(problems))


def _directory(path: Path) -> tuple[list[dict[str, Any]], tuple[Problem, ...]]:
    from ..policies.load import load_directory

    loaded = load_directory(path)
    found: list[dict[str, Any]] = [{"kind": "service", "name": name} for name in loaded.services]
    found += [_policy(policy) for policy in loaded.policies.values()]
    return found, loaded.problems


def _policy(policy: RolloutPolicy) -> dict[str, Any]:
    """A policy that is fine, with what deserves a second look."""
    from ..policies.policy_rules import advice

    return {"kind": "policy", "name": policy.name, "advice": list(advice(policy))}


def _file(path: Path) -> tuple[list[dict[str, Any]], tuple[Problem, ...]]:
    from ..errors import FileError
    from ..policies.load import check_pair, load_policy, load_service, policy_document
    from ..policies.text import read_file
    from ..policies.yaml import load_yaml

    try:
        kind = load_yaml(read_file(path), str(path)).data.get("kind")
        if kind == "RolloutPolicy":
            return [_policy(load_policy(path))], ()
        service = load_service(path)
        if service.policy is not None:
            beside = path.parent / service.policy
            policy, document = policy_document(beside if beside.is_file() else service.policy)
            wrong = check_pair(service, policy, document)
            if wrong:
                return [], wrong
    except FileError as error:
        return [], error.problems
    return [{"kind": "service", "name": service.name}], ()


def schema(
    kind: Annotated[Kind, typer.Argument(help="Which kind of file.", show_default=False)],
    output: Output = Format.JSON,
) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    from ..policies.schema import policy_schema, service_schema

    value: dict[str, Any] = service_schema() if kind is Kind.SERVICE else policy_schema()
    emit(value, Format.JSON if output is Format.TABLE else output, lambda _: None)
