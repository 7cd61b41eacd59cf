"""Approvals as `status` and `explain` show them: what is asked of people, and who has given it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text

if TYPE_CHECKING:
    from ..controller.api.shown import RolloutView
    from ..store.approvals import Approval

_DIGEST: Final = 12  # characters that tell digests apart; JSON has the whole


def status_lines(view: RolloutView) -> Iterator[tuple[str, Text]]:
    """What a rollout asks of people, and the approvals of all its steps."""
    wanted = view.wanted
    if wanted is not None and wanted.missing:
        then = "it pauses" if wanted.action == "pause" else "it rolls back"
        by = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wanted.until))
        asked = f"accede approve {view.service}; {wanted.missing} of {wanted.count} missing, {then} at {by}"
        yield "approve", Text(asked, "yellow")
    for one in view.approvals:
        words = f"step {one.step} by {_given(one.by, one.group, one.at, one.digest, one.reason)}"
        if one.counts:
            until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.until))
            yield "approved", Text(f"{words}, void at {until}", "green")
        else:
            yield "approved", Text(words, "dim")


def explained_lines(approvals: Sequence[Approval]) -> Iterator[tuple[str, Text]]:
    """The approvals that stood when a decision was taken."""
    for one in approvals:
        yield "approved", Text(f"by {_given(one.by, one.group, one.at, one.digest, one.reason)}")


def _given(by: str, group: str, at: float, digest: str, reason: str) -> str:
    """`anna (model-risk), 2026-11-27 10:02:11, bound to 3fa9c1d2e4b5: looks fine`."""
    whose = f" ({group})" if group else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return f"{by}{whose}, {when}, bound to {digest[:_DIGEST]}" + (f": {reason}" if reason else "")
