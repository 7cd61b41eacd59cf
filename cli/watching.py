"""Looking at a rollout again and again until it has come to an end, and ending with its exit code."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from ..controller.api.shown import RolloutView
from ..errors import TimedOut, Unreachable
from ..store.rollouts import Phase
from . import tables
from .client import Client
from .options import Format
from .output import console, emit
from .processes import Stopped, stopped_by_signals

_EVERY: Final = 0.5  # seconds between looks; the controller itself looks four times a second
_LINE_EVERY: Final = 10.0  # seconds between lines where there is no terminal and nothing has moved


def settled(view: RolloutView) -> bool:
    """True where only a person moves it on: ended, or paused."""
    return view.phase.ended or view.phase is Phase.PAUSED


def until_settled(
    client: Client,
    service: str,
    rollout: str | None,
    timeout: float | None,
    show: Callable[[RolloutView], None],
) -> RolloutView:
    """Show the rollout until it is settled. Raises TimedOut after `timeout` seconds.

    A controller that is away for a while (it may be starting again) is waited for.
    """
    began = time.monotonic()
    rollout = rollout or client.rollout(service).id  # later looks are at this one, not at a newer
    while True:
        try:
            view = client.rollout(service, rollout)
        except (Unreachable, TimedOut) as away:
            if time.monotonic() - began > (10.0 if timeout is None else timeout):
                raise
            print(f"accede: {away}; asking again", file=sys.stderr)  # noqa: T201
            time.sleep(1.0)
            continue
        began_again = time.monotonic()
        show(view)
        if settled(view):
            return view
        if timeout is not None and began_again - began >= timeout:
            raise TimedOut(
                f"{service} has no outcome after {timeout:g} s: {view.reason}; the rollout goes on"
            )
        time.sleep(_EVERY)


def follow(client: Client, service: str, rollout: str | None, output: Format, timeout: float | None) -> int:
    """`--watch` and `--wait`: a live picture on a terminal, lines in a log, one document a change as JSON.

    Returns the outcome's exit code. Ctrl-C ends the looking, not the rollout.
    """
    try:
        with stopped_by_signals():
            view = _shown(client, service, rollout, output, timeout)
    except Stopped as stopped:
        print("accede: the rollout goes on", file=sys.stderr)  # noqa: T201
        return stopped.exit_code
    return view.exit_code


def _shown(
    client: Client, service: str, rollout: str | None, output: Format, timeout: float | None
) -> RolloutView:
    if output is Format.YAML:
        view = until_settled(client, service, rollout, timeout, lambda _: None)
        emit(msgspec.to_builtins(view), output, lambda _: None)
        return view
    if output is Format.JSON:
        return until_settled(client, service, rollout, timeout, on_change(_print_json))
    screen = console()
    if not screen.is_terminal:
        view = until_settled(
            client,
            service,
            rollout,
            timeout,
            on_change(lambda view: screen.print(tables.line(view), markup=False)),
        )
    else:
        from rich.live import Live

        with Live(console=screen, refresh_per_second=4, transient=True) as live:
            view = until_settled(
                client, service, rollout, timeout, lambda view: live.update(tables.status(view))
            )
    screen.print(tables.status(view))
    return view


def on_change(
    show: Callable[[RolloutView], None], every: float = _LINE_EVERY
) -> Callable[[RolloutView], None]:
    """Show a view where its phase or step has moved, and every so many seconds otherwise."""
    last: dict[str, object] = {}

    def maybe(view: RolloutView) -> None:
        state, now = (view.phase, view.step), time.monotonic()
        if last.get("state") != state or now - float(str(last["at"])) >= every:
            last.update(state=state, at=now)
            show(view)

    return maybe


def _print_json(view: RolloutView) -> None:
    """One line per document, so that a program can read them as they come."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(view), ensure_ascii=False) + "\n")
    sys.stdout.flush()
