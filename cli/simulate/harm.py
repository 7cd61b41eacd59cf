"""An injected harm: what is done to the candidate's answers, in all requests or in one group of a slice."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from ...errors import UsageError
from ...router.facts import Ending
from .recording import Side

_FORMS: Final = {
    "errors": re.compile(r"\+([0-9.]+)pp"),
    "missing": re.compile(r"\+([0-9.]+)pp"),
    "latency": re.compile(r"x([0-9.]+)"),
    "score": re.compile(r"([+-][0-9.]+)(sd)?"),
}
_MOST: Final = 1e6  # as a factor, or added: beyond it nothing is simulated but overflow
_ALLOWED: Final = (
    "errors=+2pp, missing=+1pp, latency=x1.5, score=+0.2sd, score=-0.05; with @SLICE=GROUP at the end"
)


@dataclass(frozen=True, slots=True)
class Harm:
    """One change. `amount`: a share, a factor, or what is added to scores (in sd of stable where `in_sd`)."""

    kind: str
    amount: float
    in_sd: bool = False
    group: str = ""

    def done_to(self, side: Side, sd: float, random: Random) -> Side:
        """The answer with the harm."""
        if self.kind == "latency":
            return replace(side, latency=side.latency * self.amount)
        if self.kind == "score":
            more = self.amount * (sd if self.in_sd else 1.0)
            return replace(
                side, values=tuple(v + more if isinstance(v, float | int) else v for v in side.values)
            )
        if random.random() >= self.amount:
            return side
        if self.kind == "missing":
            return replace(side, values=tuple(None for _ in side.values))
        return replace(side, ending=int(Ending.ANSWERED), status=500, values=())


def harm_of(text: str) -> Harm:
    """Read what `--inject` says. Raises UsageError."""
    kind, equals, rest = text.partition("=")
    written, at, group = rest.partition("@")
    form = _FORMS.get(kind)
    match = form.fullmatch(written) if form is not None and equals else None
    try:
        amount = float(match[1]) if match is not None else -1.0
    except ValueError:
        match = None
        amount = -1.0
    most = 100.0 if kind in {"errors", "missing"} else _MOST  # percent
    if match is None or abs(amount) > most or (at and not group):
        raise UsageError(f"--inject: cannot read {text[:60]!r}; allowed: {_ALLOWED}")
    if kind in {"errors", "missing"}:
        return Harm(kind, amount / 100.0, group=group)
    return Harm(kind, amount, in_sd=kind == "score" and match[2] == "sd", group=group)
