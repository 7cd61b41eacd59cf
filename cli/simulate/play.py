"""One rollout over recorded requests: the product's folding, looks and decisions, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from ...controller.analyse import analyse
from ...controller.analysis.freeze import epoch_constants, freeze
from ...controller.rollout import looking, performing
from ...controller.rollout.actions import Note
from ...controller.rollout.machine import decide
from ...controller.rollout.operations import start
from ...controller.rollout.performing import Seen
from ...controller.rollout.routing import idle_route
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService
from ...router.facts import CANDIDATE, PAIR_BACK, PAIR_SHADOW, STABLE, Fact, MirrorTally, Pair
from ...router.observer.extract import Grouping, Groups
from ...router.observer.fold import Fold
from ...router.observer.pairing import PairSeen
from ...router.observer.seen import Several
from ...store.evidence import Evidence
from ...store.measurement import MeasurementPlan
from ...store.rollouts import Analysis, Phase, RolloutRecord
from ...store.routes import ServiceRoute
from .recording import Request, Side


@dataclass(frozen=True, slots=True)
class Moment:
    """One decision. `after`: seconds since the start; `exposed`: users whom the candidate has answered."""

    after: float
    act: str
    phase: str
    reason: str
    exposed: int


@dataclass(slots=True)
class Played:
    """How one rollout went. `tracks`: gate -> (seconds, share of the proof of safety, of harm), 0 to 1."""

    phase: Phase = Phase.BASELINE
    after: float = 0.0
    exposed: int = 0
    mirrored: int = 0
    moments: list[Moment] = field(default_factory=list[Moment])
    tracks: dict[str, list[tuple[float, float, float]]] = field(
        default_factory=dict[str, list[tuple[float, float, float]]]
    )


ENGINE = looking.Engine(partial(analyse, intervals=False), freeze, epoch_constants)


class Play:
    """A rollout of `candidate` under a policy. `tracked`: keep how the E-values went."""

    def __init__(
        self, service: ModelService, policy: RolloutPolicy, candidate: str, random: Random, began: float,
        *, tracked: bool,
    ) -> None:  # fmt: skip
        self._service, self._policy = service, policy
        self._random, self._began, self._tracked = random, began, tracked
        commit = start(
            service, policy, candidate, idle_route(service, service.stable, None), (), "simulate", began
        )
        assert commit.route is not None  # noqa: S101  (a start always has one)
        assert commit.record is not None  # noqa: S101  (and the other)
        self._record: RolloutRecord = commit.record
        self._route: ServiceRoute = commit.route
        self._closed: dict[int, Evidence] = {}
        self._number = 0
        self._open()
        self.played = Played()

    @property
    def over(self) -> bool:
        """Decided, or waiting for a person."""
        return self._record.phase.ended or self._record.phase is Phase.PAUSED

    def request(self, request: Request, candidate: Side, at: float) -> None:
        """Account one request as the present step would have served it."""
        self._number += 1
        epoch = self._record.epochs[-1]
        groups = self._groups(request.fields)
        if epoch.place == "canary" and self._random.random() < epoch.weight:
            self.played.exposed += 1
            self._fact(CANDIDATE, at, request.unit, candidate, groups)
            if epoch.mirror_back and self._random.random() < epoch.mirror_back:
                self._pair(PAIR_BACK, at, request.stable, candidate, groups)
            return
        self._fact(STABLE, at, request.unit, request.stable, groups)
        if epoch.mirrored and (epoch.mirrored >= 1.0 or self._random.random() < epoch.mirrored):
            self.played.mirrored += 1
            self._pair(PAIR_SHADOW, at, request.stable, candidate, groups)

    def look(self, now: float) -> None:
        """One look, and whatever it decides."""
        evidence = {**self._closed, self._record.epoch: self._fold.evidence("simulate", now, now, {})}
        seen = Seen(self._record, self._route, self._policy, self._service, evidence, ())
        seen, look = looking.look(ENGINE, seen, now)
        if self._tracked and seen.analysis is not None:
            self._track(seen.analysis, now)
        for action in decide(self._record, self._policy, look, now):
            commit = performing.change(
                Seen(
                    self._record, self._route, self._policy, self._service, evidence, (), seen.analysis
                ), action, now, "simulate", epoch_constants,
            )  # fmt: skip
            before = self._record.epoch
            self._record = commit.record or self._record
            self._route = commit.route or self._route
            if not isinstance(action, Note):
                self._told(action.act, action.reason, now)
            if self._record.epoch != before:
                self._closed[before] = evidence[before]
                self._open()

    def _told(self, act: str, reason: str, now: float) -> None:
        played = self.played
        after = now - self._began
        played.phase, played.after = self._record.phase, after
        played.moments.append(Moment(after, act, self._record.phase.value, reason, played.exposed))

    def _open(self) -> None:
        plan = self._route.plan
        assert plan is not None  # noqa: S101  (an open rollout measures)
        self._fold = Fold(self._route, plan)
        self._grouping = _grouping(plan)

    def _groups(self, fields: dict[str, Any]) -> Groups:
        return tuple(
            [grouping.of(one) for one in fields.get(path, ())] if every else grouping.of(fields.get(path))
            for path, every, grouping in self._grouping
        )

    def _fact(self, arm: int, at: float, unit: int, side: Side, groups: Groups) -> None:
        fact = Fact(
            self._number, 0, arm, arm, at, side.ending, side.status, side.latency, unit, excluded=False,
            captured=1, request_bytes=0, response_bytes=0,
        )  # fmt: skip
        self._fold.add(fact, Several(list(side.values), groups))

    def _pair(self, kind: int, at: float, stable: Side, candidate: Side, groups: Groups) -> None:
        pair = Pair(
            self._number, 0, at, stable.ending, stable.status, stable.latency, candidate.ending,
            candidate.status, candidate.latency, False, b"", b"", b"", "", "", "", kind,
        )  # fmt: skip
        self._fold.add_tally(MirrorTally(0, 1, 1, 0, 0, 0, 0, kind))
        self._fold.add_pair(pair, PairSeen(list(stable.values), list(candidate.values), groups))

    def _track(self, analysis: Analysis, now: float) -> None:
        for verdict in analysis.verdicts:
            safe = [one.progress or 0.0 for one in verdict.findings]
            harm = [
                max(0.0, min(1.0, one.log_e_harm / one.log_needed_harm))
                for one in verdict.findings
                if one.log_e_harm is not None and one.log_needed_harm
            ]
            track = self.played.tracks.setdefault(f"{verdict.gate}, {verdict.place}", [])
            track.append((now - self._began, min(safe, default=0.0), max(harm, default=0.0)))


def _grouping(plan: MeasurementPlan) -> list[tuple[str, bool, Grouping]]:
    """Per slice that the plan asks for, in the observer's order: recorded path, every instance, grouping."""
    if plan.extraction is None:
        return []
    wanted = frozenset(name for names in plan.sliced_metrics.values() for name in names)
    return [
        (planned.path, "[*]" in planned.path, Grouping(planned))
        for planned in plan.extraction.slices
        if planned.name in wanted
    ]


def play(play_: Play, requests: Iterator[tuple[Request, Side, float]], looks: Sequence[float]) -> Played:
    """Until it is over or the recording ends. `looks`: moments, ascending."""
    coming = iter(looks)
    due = next(coming, None)
    for request, candidate, at in requests:
        while due is not None and at >= due:
            play_.look(due)
            if play_.over:
                return play_.played
            due = next(coming, None)
        play_.request(request, candidate, at)
    while due is not None and not play_.over:
        play_.look(due)
        due = next(coming, None)
    return play_.played
