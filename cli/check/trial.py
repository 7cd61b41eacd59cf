"""Answers of two versions to the same requests, folded and judged by the product's own code.

The router's Fold makes the sums and the controller's freeze and analyse judge them: epoch 0 is stable alone
on the rows held out for the baseline, epoch 1 a shadow of everything else. Time plays no part: an exchange is
given the time of its block, so that one block of rows is one batch of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ...controller.analyse import analyse
from ...controller.analysis.freeze import epoch_constants, freeze
from ...controller.analysis.length import batch_of
from ...controller.analysis.reading import Levels
from ...controller.analysis.shadow_latency import advise
from ...controller.rollout.routing import idle_route, rollout_route
from ...errors import AccedeError
from ...policies.canonical import canonical, policy_hash
from ...policies.policy import Gate, RolloutPolicy
from ...policies.service import ModelService
from ...router.facts import STABLE, Body, Ending, Fact, MirrorTally, Pair
from ...router.observer.fold import Fold
from ...store.evidence import Evidence, merge
from ...store.measurement import CLUSTERS
from ...store.rollouts import (
    WIRE,
    Advice,
    Analysis,
    EpochRecord,
    FrozenConstants,
    Phase,
    RolloutRecord,
    Validity,
)
from .dataset import Row
from .truths import Truths

SOURCE: Final = "check"
_FEWEST_BLOCKS: Final = 20


class Answer(msgspec.Struct, frozen=True):
    """What one version said to one request. `latency` in seconds; `body` b'' without a whole answer.

    `size`: bytes of the answer, of which `body` is empty beyond what is captured.
    """

    ending: Ending
    status: int = 0
    latency: float = 0.0
    body: bytes = b""
    encoding: str = ""
    head: int = -1
    size: int = 0


def blocks_of(rows: int, together: int) -> int:
    """Into how many batches rows are divided: long against what is under way at one time, at least 20."""
    return max(1, min(CLUSTERS, rows, max(_FEWEST_BLOCKS, rows // max(1, 2 * together))))


class Trial:
    """One check. `service` names both versions; `policy` is gates.split's."""

    def __init__(self, service: ModelService, policy: RolloutPolicy, stable: str, candidate: str) -> None:
        self._service, self._policy = service, policy
        self.stable, self.candidate = stable, candidate
        first = EpochRecord(0, None, "baseline", 0.0, 0.0, 0.0)
        self._record = RolloutRecord(
            wire=WIRE, id=f"{service.name}-check", service=service.name, version=1, stable=stable,
            candidate=candidate, candidate_digest="", policy_name=policy.name,
            policy_hash=policy_hash(policy), policy=canonical(policy), attempt=0, salt="",
            started_by="check", started_at=0.0,
            phase=Phase.BASELINE, phase_since=0.0, step=None, step_since=0.0, epoch=0, epochs=(first,),
            reason="",
        )  # fmt: skip
        self._idle = idle_route(service, stable, None)
        self._fold = self._folding()
        self._baseline: Evidence | None = None
        self._number = 0
        self.beyond_capture = 0

    @property
    def constants(self) -> FrozenConstants | None:
        """What the baseline has frozen."""
        return self._record.constants

    def stable_alone(self, block: int, request: bytes, answer: Answer) -> None:
        """Account one row of the baseline."""
        self._exchange(block, request, answer)

    def freeze(self, latency: dict[str, tuple[int, int, int]]) -> str:
        """End the baseline and open the shadow; '' or why nothing could be frozen.

        `latency`: thresholds of metrics that pairs have only advice on.
        """
        self._baseline = self._evidence()
        constants = freeze(self._policy, self._service, self._baseline)
        if not isinstance(constants, FrozenConstants):
            return constants.reason
        centres, thresholds = epoch_constants(self._policy, constants, self._baseline)
        epoch = EpochRecord(1, 0, "shadow", 0.0, 1.0, 0.0, centres, thresholds | latency)
        self._record = msgspec.structs.replace(
            self._record, phase=Phase.SHADOW, step=0, epoch=1, epochs=(*self._record.epochs, epoch),
            constants=constants,
        )  # fmt: skip
        self._fold = self._folding()
        return ""

    def pair(self, block: int, row: Row, stable: Answer, candidate: Answer) -> None:
        """Account one row that both versions answered, or failed to."""
        request = row.body
        limits = self._service.capture
        sizes = (stable.size > limits.response, candidate.size > limits.response)
        too_large = len(request) > limits.request
        self.beyond_capture += too_large or any(sizes)
        self._exchange(block, request, stable)
        self._fold.add_tally(MirrorTally(0, 1, int(not too_large), 0, 0, 0, int(too_large)))
        if too_large:  # as in a router, which cannot copy what it has not kept
            return
        kept = not any(sizes)
        pair = Pair(
            self._number, 0, self._at(block), stable.ending, stable.status, stable.latency, candidate.ending,
            candidate.status, candidate.latency, lost=False, request=request if kept else b"",
            stable_response=stable.body if kept else b"", shadow_response=candidate.body if kept else b"",
            request_encoding="", stable_encoding=stable.encoding, shadow_encoding=candidate.encoding,
            stable_head=stable.head, shadow_head=candidate.head,
        )  # fmt: skip
        seen = self._fold.read_pair(pair)
        self._fold.add_pair(pair, seen)
        if self._outcomes is not None and seen is not None:
            self._outcomes.pair(msgspec.structs.replace(pair, request_id=str(self._number)), seen, row.label)

    def unanswered(self, block: int, request: bytes, stable: Answer) -> None:
        """Account a row that only stable was asked: a copy that made no pair, which lowers the coverage."""
        self._exchange(block, request, stable)
        self._fold.add_tally(MirrorTally(0, 1, 0, 0, 0, 0, 0))

    def evidence(self) -> dict[int, Evidence]:
        """Epoch -> sums so far."""
        if self._baseline is None:
            return {0: self._evidence()}
        found = self._evidence()
        told = () if self._outcomes is None else self._outcomes.sums()
        return {0: self._baseline, 1: merge([found, *told]) or found}

    def analysis(self) -> Analysis:
        """The controller's own verdicts."""
        return analyse(self._record, self._policy, self.evidence(), (), 1.0)

    def advice(self, gates: dict[int, Gate], validity: Sequence[Validity]) -> tuple[Advice, ...]:
        """What the controller would say of latency gates in a shadow."""
        constants = self._record.constants
        if constants is None:
            return ()
        levels = Levels.of(self._policy, self._record)
        return advise(tuple(gates.items()), self._record, constants, self.evidence(), levels, validity)

    def _folding(self) -> Fold:
        route = rollout_route(self._service, self._record, self._policy, self._idle)
        if route.plan is None:
            raise AccedeError(f"service {self._service.name!r}: nothing is measured")
        fold = Fold(route, route.plan)
        self._outcomes = Truths.of(self._service.name, self._policy, route.plan, self._record, fold)
        return fold

    def _evidence(self) -> Evidence:
        return self._fold.evidence(SOURCE, 1.0, 1.0, {})

    def _at(self, block: int) -> float:
        return (block % CLUSTERS + 0.5) * batch_of(self._policy, self._record.constants)

    def _exchange(self, block: int, request: bytes, answer: Answer) -> None:
        self._number += 1
        limits = self._service.capture
        kept = len(request) <= limits.request and answer.size <= limits.response
        fact = Fact(
            self._number, 0, STABLE, STABLE, self._at(block), answer.ending, answer.status, answer.latency,
            -1, excluded=False, captured=0, request_bytes=len(request), response_bytes=answer.size,
        )  # fmt: skip
        body = None
        if kept:
            fact.captured = 1
            body = Body(self._number, request, answer.body, "", answer.encoding, response_head=answer.head)
        self._fold.add(fact, self._fold.read(fact, body))
