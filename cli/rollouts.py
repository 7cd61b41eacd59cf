"""Verbs that move a rollout: `start`, `pause`, `resume`, `promote`, `approve`, `abort`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    DEFAULT_API,
    Actor,
    Api,
    Format,
    Output,
    Reason,
    Service,
    Timeout,
    WaitTimeout,
    actor_or_login,
)

if TYPE_CHECKING:
    from ..controller.api.shown import RolloutView


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (start, pause, resume, promote, approve, abort):
        app.command()(verb)


def start(
    service: Service,
    *,
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate", "-c", help="Version to roll out, as in the service's file.", show_default=False
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            help="A policy file, or the name of a library policy. Default: the service's own.",
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Wait for the outcome and exit with its code: 0, 3, 4, or 5 after --timeout."
        ),
    ] = False,
    reason: Reason = "",
    actor: Actor = "",
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: WaitTimeout = None,
) -> None:
    """Start a rollout of a version."""
    from .client import Client
    from .watching import follow

    name, text, file = policy_given(policy)
    with Client(api, 10.0 if timeout is None else min(timeout, 10.0)) as client:
        view = client.start(
            service,
            candidate,
            actor_or_login(actor),
            policy=name,
            policy_text=text,
            policy_file=file,
            reason=reason,
        )
        if wait:
            raise typer.Exit(follow(client, service, view.id, output, timeout))
    _show(view, output)


def policy_given(given: str | None) -> tuple[str | None, str | None, str | None]:
    """(name, text, file): a file is read here, where its path means something; a name is the controller's."""
    if given is None:
        return None, None, None
    path = Path(given)
    if not path.exists() and "/" not in given and not given.endswith((".yaml", ".yml")):
        return given, None, None
    from ..policies.load import parse_policy
    from ..policies.text import read_file

    content = read_file(path)
    parse_policy(content, given)  # what is wrong in it is said with its own lines before anything is sent
    return None, content.decode("utf-8"), given


def pause(
    service: Service,
    reason: Reason = "",
    actor: Actor = "",
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Hold a rollout where it is; traffic stays as it is."""
    _act(service, "pause", reason, actor, output, api, timeout)


def resume(
    service: Service,
    reason: Reason = "",
    actor: Actor = "",
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Go on with a paused rollout."""
    _act(service, "resume", reason, actor, output, api, timeout)


def promote(
    service: Service,
    full: Annotated[
        bool, typer.Option("--full", help="Make the candidate stable now, instead of going to the next step.")
    ] = False,
    reason: Reason = "",
    actor: Actor = "",
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Go to the next step without waiting. Past an unproven gate it is an override and needs --reason.

    It does not stand in for approvals.
    """
    _act(service, "promote", reason, actor, output, api, timeout, full=full)


def approve(
    service: Service,
    step: Annotated[
        int | None,
        typer.Option(
            "--step", min=1, help="Number of the step, as in status. Refused where it waits in another one."
        ),
    ] = None,
    reason: Reason = "",
    actor: Actor = "",
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Approve a rollout that waits for people, as it stands now. Needs a token of role approver."""
    _act(service, "approve", reason, actor, output, api, timeout, **({} if step is None else {"step": step}))


def abort(
    service: Service,
    direct: Annotated[
        list[Path] | None,
        typer.Option(
            "--direct",
            help="Admin socket of a router: abort there, without the controller. Repeat it per router.",
            metavar="SOCKET",
        ),
    ] = None,
    reason: Reason = "",
    actor: Actor = "",
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Stable alone, at once."""
    if direct:
        from .direct import abort_directly

        who = actor_or_login(actor)
        abort_directly(service, direct, f"{who}: {reason}" if reason else who, output, timeout)
        return
    _act(service, "abort", reason, actor, output, api, timeout)


def _act(
    service: str, verb: str, reason: str, actor: str, output: Format, api: str, timeout: float, **more: int
) -> None:
    from .client import Client

    with Client(api, timeout) as client:
        _show(client.act(service, verb, actor_or_login(actor), reason, **more), output)


def _show(view: RolloutView, output: Format) -> None:
    import msgspec

    from . import tables
    from .output import emit

    emit(msgspec.to_builtins(view), output, lambda console: console.print(tables.line(view), markup=False))
