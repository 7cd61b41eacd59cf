"""One look at a rollout: read it from the store, merge its evidence, analyse, freeze where it is time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol

from ...policies.load import policy_from_canonical
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService
from ...store.evidence import Evidence
from ...store.protocol import Store
from ...store.rollouts import Analysis, FrozenConstants, Phase, ReplicaReport, RolloutRecord
from ...store.routes import ServiceRoute
from ..evidence.merging import Merges, merged
from .approvals import asked
from .binding import subject_of
from .machine import may_freeze
from .measuring import baseline_requests
from .performing import FreezeEpoch, Seen
from .signals import Look, Signals, read_signals


class Reason(Protocol):
    """What says why it is not ready (controller.analysis.freeze.NotReady)."""

    @property
    def reason(self) -> str:
        """A sentence."""
        ...


class Analyse(Protocol):
    """controller.analyse.analyse: pure, no clock."""

    def __call__(
        self,
        record: RolloutRecord,
        policy: RolloutPolicy,
        evidence: Mapping[int, Evidence],
        reports: tuple[ReplicaReport, ...],
        now: float,
        /,
    ) -> Analysis:
        """All verdicts and validity checks at one moment."""
        ...


Prepared = tuple[RolloutRecord, RolloutPolicy, Mapping[int, Evidence]]


@dataclass(frozen=True, slots=True)
class Engine:
    """The pure functions that judge; passed in, so that the loop can be tested without statistics.

    `glance`: as `analyse`, with the same outcomes and no words: cheap, and enough to see that nothing is to
    be done. None: there is none. `prepare`: for many glances that follow, on the same (record, policy,
    evidence) each, what they need; they come to the same without it.
    """

    analyse: Analyse
    freeze: Callable[[RolloutPolicy, ModelService, Evidence], FrozenConstants | Reason]
    freeze_epoch: FreezeEpoch
    glance: Analyse | None = None
    prepare: Callable[[Sequence[Prepared]], None] | None = None


def statistics() -> Engine:
    """The product's own engine. Imports scipy, so it is asked for when a controller starts."""
    from ..analyse import analyse, prepare
    from ..analysis.freeze import epoch_constants, freeze

    return Engine(analyse, freeze, epoch_constants, partial(analyse, intervals=False, told=False), prepare)


@lru_cache(maxsize=2048)
def policy_of(text: str) -> RolloutPolicy:
    """The policy of a record's canonical text."""
    return policy_from_canonical(text)


def read(
    store: Store,
    record: RolloutRecord,
    route: ServiceRoute,
    service: ModelService | None,
    reports: tuple[ReplicaReport, ...],
    merges: Merges | None = None,
) -> Seen:
    """All that the store has about an open rollout now. `merges`: where sums are remembered."""
    parts = store.evidence(record.service, record.id)
    evidence = merged(parts) if merges is None else merges.of(record.id, parts)
    return Seen(record, route, policy_of(record.policy), service, evidence, reports)


def signals_of(seen: Seen) -> Signals:
    """What the routers say about the rollout's route."""
    return read_signals(seen.record, seen.route.generation, seen.reports)


def look(engine: Engine, seen: Seen, now: float, *, glance: bool = False) -> tuple[Seen, Look]:
    """Analyse what was read; freeze the baseline where its minima are met. `glance`: with the engine's."""
    record, policy = seen.record, seen.policy
    analyse = engine.glance if glance and engine.glance is not None else engine.analyse
    analysis = analyse(record, policy, seen.evidence, seen.reports, now)
    seen = replace(seen, analysis=analysis)
    requests = baseline_requests(seen.evidence.get(0)) if record.phase is Phase.BASELINE else 0
    frozen: FrozenConstants | None = None
    not_ready = ""
    if may_freeze(record, policy, requests, now):
        frozen, not_ready = _freeze(engine, seen)
    subject = subject_of(seen.service, record) if asked(record, policy) is not None else ""
    return seen, Look(analysis, signals_of(seen), requests, frozen, not_ready, subject=subject)


def _freeze(engine: Engine, seen: Seen) -> tuple[FrozenConstants | None, str]:
    if seen.service is None:
        return None, f"the file of service {seen.record.service!r}, which cannot be read"
    result = engine.freeze(seen.policy, seen.service, seen.evidence[0])
    if isinstance(result, FrozenConstants):
        return result, ""
    return None, result.reason
