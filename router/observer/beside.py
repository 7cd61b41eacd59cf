"""What is done with bodies beside the sums: input features are counted, and a sample is recorded.

Both read the request again, so services that declare neither have none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ...store.measurement import MeasurementPlan
from ...store.routes import ServiceRoute
from ..facts import Body, Fact, Pair
from .extract import FORMATS
from .formats import Json
from .inputs import NO_LABELS, Inputs, Labels
from .pairing import PairSeen
from .recorder import Recorder, Recording
from .seen import Seen, Several

_ARMS = ("stable", "candidate")


class Beside:
    """Of one epoch. `random`: draws the sample, 0 <= x < 1."""

    def __init__(
        self, inputs: Inputs | None, recording: Recording | None, request: Callable[[bytes, str, int], Any],
        random: Callable[[], float],
    ) -> None:  # fmt: skip
        self._inputs = inputs
        self._recording = recording
        self._request = request
        self._random = random

    @classmethod
    def of(
        cls, route: ServiceRoute, plan: MeasurementPlan, recorder: Recorder | None,
        random: Callable[[], float],
    ) -> Beside | None:  # fmt: skip
        """None where the route declares neither inputs nor a recording."""
        if not plan.inputs and (recorder is None or route.recording.sample <= 0):
            return None
        form = FORMATS.get(route.protocol, Json)("", number=True)
        inputs = Inputs(plan.inputs, form.feature) if plan.inputs else None
        recording = None
        if recorder is not None:
            recording = recorder.recording(route.service, plan.rollout, plan.epoch, route.recording, form)
        return cls(inputs, recording, form.request, random)

    def exchange(self, fact: Fact, body: Body | None, seen: Seen | None, now: float) -> Labels:
        """The inputs of one exchange, to be counted at its turn; it is perhaps recorded. Never raises."""
        labels = NO_LABELS
        if self._inputs is not None and body is not None and not fact.excluded:
            # Whatever a stranger's body does to its reader, its evidence still counts.
            with suppress(Exception):
                document = self._request(body.request, body.request_encoding, body.request_head)
                labels = self._inputs.labels(document)
        recording = self._recording
        if recording is not None and self._random() < recording.sample:
            recording.exchange(fact, body, _predictions(seen), now)
        return labels

    def count(self, fact: Fact, labels: Labels) -> None:
        """Count the inputs of one exchange when all before it are in, so that no arm is ahead."""
        if self._inputs is not None:
            self._inputs.add(fact.arm, labels)

    def pair(self, pair: Pair, seen: PairSeen | None, now: float) -> None:
        """Perhaps record one mirrored request. Never raises."""
        recording = self._recording
        if recording is not None and not pair.lost and self._random() < recording.sample:
            stable, shadow = ([], []) if seen is None else (list(seen.stable), list(seen.shadow))
            recording.pair(pair, stable, shadow, now)

    def counts(self) -> dict[str, dict[str, int]]:
        """What Evidence.inputs holds."""
        return {} if self._inputs is None else self._inputs.counts(_ARMS)


def _predictions(seen: Seen | None) -> list[Any]:
    if seen is None:
        return []
    return list(seen.values) if isinstance(seen, Several) else [seen[4]]
