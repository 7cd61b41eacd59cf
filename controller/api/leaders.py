"""Who leads and who stands by, as the API shows it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .shown import Controllers, ControllerView

if TYPE_CHECKING:
    from ...store.protocol import Leadership

LONG: Final = 10.0  # seconds without a leader that a takeover does not explain


def controllers_view(found: Leadership, asked: str) -> Controllers:
    """All controllers of a store; `asked` answers."""
    leads = () if found.leader is None else (found.leader,)
    views = [
        ControllerView(one.holder, one in leads, one.since, one.holder == asked)
        for one in (*leads, *found.standing_by)
    ]
    vacant = None if found.vacant is None else max(0.0, found.at - found.vacant)
    return Controllers(found.leader.holder if found.leader else None, tuple(views), vacant)


def leaderless(found: Controllers) -> str:
    """What to say of a store that nobody leads; '' where one does, or may take over in a moment."""
    if found.leader is not None or (found.vacant is not None and found.vacant < LONG):
        return ""
    since = "no controller leads" if found.vacant is None else f"no controller leads for {found.vacant:.0f} s"
    return (
        f"{since}: nothing is decided, and routers return to stable when `unattended` has passed; see the "
        "controllers' logs"
    )
