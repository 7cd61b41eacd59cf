"""`accede token`: a new token for the controller's API."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .options import Format, Output

if TYPE_CHECKING:
    from rich.console import Console

_BYTES = 32  # of randomness: beyond guessing, so its digest may be a plain SHA-256


class Role(StrEnum):
    """What a token allows; the words of policies.tokens."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(token)


def token(
    name: Annotated[
        str, typer.Argument(help="Who it is for: the actor in the audit trail.", show_default=False)
    ],
    role: Annotated[
        Role,
        typer.Option(
            "--role",
            help="viewer: reads and plans; operator: starts, moves and aborts rollouts, sends labels; "
            "approver: also approves, and promotes past what is not proven.",
        ),
    ] = Role.VIEWER,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            help="A group whose approvals it may give, such as model-risk; repeat it.",
            metavar="NAME",
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a token for the controller's API, and the entry of its file."""
    import json
    import secrets

    from ..controller.api.access import digest
    from ..policies.tokens import ApiToken
    from .output import emit

    made = f"acd_{secrets.token_urlsafe(_BYTES)}"
    entry = ApiToken(name=name, role=role.value, sha256=digest(made), groups=_groups(group or [], role))
    # A quoted JSON text is YAML as well, whatever the name has in it.
    groups = f", groups: [{', '.join(entry.groups)}]" if entry.groups else ""
    line = f"- {{name: {json.dumps(name)}, role: {entry.role}{groups}, sha256: {entry.sha256}}}"

    def table(console: Console) -> None:
        console.print("token, shown this once; callers set ACCEDE_TOKEN to it:", highlight=False)
        console.print(f"  {made}", highlight=False, soft_wrap=True)
        console.print("below `tokens:` in the file of the controller's --tokens:", highlight=False)
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    emit({"token": made, "entry": entry.model_dump()}, output, table)


def _groups(given: list[str], role: Role) -> tuple[str, ...]:
    """The groups as the file takes them. Raises UsageError."""
    from ..policies.approve import parse_group

    if given and role is not Role.APPROVER:
        raise UsageError(f"--group is for who may approve; add --role approver (found {role.value})")
    try:
        return tuple(dict.fromkeys(parse_group(one) for one in given))
    except ValueError as wrong:
        raise UsageError(f"--group: {wrong}") from None
