"""Publishing evidence: whole now and then, and between that what has changed since, which is far less.

What has changed lies beside the body that it is of, and one script writes it only where that body, by its
version, still lies there: whatever was lost, restored or closed meanwhile, a reader finds a body with changes
of its own, or a body alone. What a process does not know to be there, it publishes whole: at its start, after
every error, and when the store says that another body lies there.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Final

import msgspec

from ..changes import changes
from ..closing import CLOSED_MARK, closed_source
from ..evidence import Evidence, Series, SeriesKey, encode_evidence
from .bodies import packed
from .commits import AFTER_THE_END
from .connection import Connection
from .keys import OF_EVIDENCE, new_version
from .scripts import CHANGE, PUBLISH

WHOLE_EVERY: Final = 10.0  # seconds; older controllers read bodies alone
_WORTH_IT: Final = 0.25  # of a body's size: changes may be so large
_PATIENCE: Final = 8  # publications for which changes are not looked for after they were too large

Place = tuple[str, str, int, str]  # service, rollout, epoch, source


@dataclass(slots=True)
class _Base:
    """The body that this process knows to lie there.

    `told`: changes of it have been written. `wait`: so many publications are whole in any case.
    """

    evidence: Evidence
    version: str
    size: int
    at: float
    wait: int
    told: bool = False


class Publishing:
    """Of one process. Remembers the last bodies of what it has published lately."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()
        self._bases: dict[Place, _Base] = {}

    def publish(self, evidence: Evidence) -> None:
        """Replace this source's evidence for the same service, rollout and epoch."""
        place = evidence.service, evidence.rollout, evidence.epoch, evidence.source
        with self._lock:
            base = self._bases.pop(place, None)  # until it is known what became of this one
        now = monotonic()
        if base is not None and self._change(evidence, base, now):
            with self._lock:
                self._bases[place] = base
            return
        body = packed(encode_evidence(evidence))
        version = new_version()
        answer, *mark = self._connection.run(
            PUBLISH,
            self._keys(evidence),
            (_name(evidence), body, evidence.rollout, CLOSED_MARK, AFTER_THE_END, version),
            writes=True,
        )
        if answer == b"CLOSED":
            raise closed_source(evidence, mark[0])
        wait = 0 if base is None else base.wait
        with self._lock:
            self._bases[place] = _Base(_copied(evidence), version, len(body), now, wait)
            self._forget(now)

    def _change(self, evidence: Evidence, base: _Base, now: float) -> bool:
        """Write what has changed, if that is little; False where the whole has to be written."""
        if base.wait:
            base.wait -= 1
            return False
        if now - base.at >= WHOLE_EVERY:
            return False
        told = changes(base.evidence, evidence)
        body = b"" if told is None else packed(told)
        if told is None or len(body) > _WORTH_IT * base.size:
            if not base.told:  # not what has gathered since, but what changes from one to the next
                base.wait = _PATIENCE
            return False
        answer = self._connection.run(
            CHANGE,
            self._keys(evidence),
            (_name(evidence), body, evidence.rollout, base.version, AFTER_THE_END, new_version()),
            writes=True,
        )
        base.told = bool(answer == b"DONE")
        return base.told

    def _keys(self, evidence: Evidence) -> tuple[str, ...]:
        keys, service = self._connection.keys, evidence.service
        return *(keys.of(service, what, evidence.rollout) for what in OF_EVIDENCE), keys.of(service, "meta")

    def _forget(self, now: float) -> None:
        """Bodies of epochs that are over: their changes would be told whole in any case."""
        for place in [place for place, base in self._bases.items() if now - base.at >= 2 * WHOLE_EVERY]:
            del self._bases[place]


def _copied(evidence: Evidence) -> Evidence:
    """What was published, whatever its owner adds to it later."""
    series: dict[SeriesKey, Series] = {}
    for key, one in evidence.series.items():
        sums = list(one.sum)
        series[key] = Series(list(one.n), sums, sums if one.square is one.sum else list(one.square))
    return msgspec.structs.replace(deepcopy(msgspec.structs.replace(evidence, series={})), series=series)


def _name(evidence: Evidence) -> str:
    return f"{evidence.epoch}|{evidence.source}"
