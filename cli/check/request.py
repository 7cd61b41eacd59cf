"""From the flags of a check to its outcome."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import FileError, UsageError
from ...policies.load import check_pair, load_service, policy_document
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService, Recording, Version
from ...router.observer.failures import Failures
from ...store.rollouts import Advice
from ...store.routes import RouteErrors
from .bodies import call_path
from .dataset import Columns, Dataset
from .flags import group_columns, headers_of, path_of, version_of
from .gates import Split, split
from .latency import Latencies
from .order import Order, order_of
from .outcome import Outcomes, Run, judged, shares_of
from .recorded import Joined
from .running import Taken, live, over
from .sending import Call, Endpoint
from .trial import Trial
from .truth import Truth

_OF_ROWS: Final = (
    ("--path", "path"),
    ("--header", "headers"),
    ("--id", "id_column"),
    ("--unit", "unit_column"),
    ("--label", "label_column"),
    ("--group", "group_columns"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for on the command line."""

    service: Path
    policy: str | None
    stable: str
    candidate: str
    data: Path | None
    stable_answers: Path | None
    candidate_answers: Path | None
    path: str
    headers: tuple[str, ...]
    id_column: str
    unit_column: str
    label_column: str
    group_columns: tuple[str, ...]
    together: int
    seed: int
    timeout: float | None
    require_all: bool


def carried_out(request: Request) -> Outcomes:
    """Do it. Raises AccedeError: usage, files, a server out of reach."""
    recorded = request.stable_answers is not None or request.candidate_answers is not None
    if recorded == (request.data is not None):
        raise UsageError(
            "give either --data and --candidate for two servers, or --stable-answers and --candidate-answers"
        )
    service = load_service(request.service)
    policy = _policy(request, service)
    if recorded:
        return _recorded(request, service, policy)
    return _live(request, service, policy)


def _policy(request: Request, service: ModelService) -> RolloutPolicy:
    named: Path | str | None = request.policy
    if named is None:
        if service.policy is None:
            raise UsageError(f"{request.service} names no policy; give one with --policy")
        beside = request.service.parent / service.policy
        named = beside if beside.is_file() else service.policy
    policy, document = policy_document(named)
    # A policy for the canary may ask of the service what a check does not need; slices and types it does.
    problems = check_pair(service.model_copy(update={"side_effects": "none"}), policy, document)
    if problems:
        raise FileError(problems)
    return policy


def _live(request: Request, service: ModelService, policy: RolloutPolicy) -> Outcomes:
    if request.data is None or not request.candidate:
        raise UsageError("--data needs --candidate: a version of the service's file, or the URL of a server")
    if service.side_effects == "writes":
        raise UsageError(
            f"service {service.name!r}: side_effects is writes, so its requests are not sent to two servers; "
            "declare side_effects: none or shadow-aware, or check recorded answers"
        )
    stable, one = version_of(service, request.stable or service.stable, "stable")
    candidate, other = version_of(service, request.candidate, "candidate")
    call = Call(
        path_of(request.path) or call_path(service), service.limits.deadline, service.capture.response,
        headers_of(request.headers),
    )  # fmt: skip
    if (request.label_column or request.group_columns) and service.outcome is None:
        flag = "--label" if request.label_column else "--group"
        raise UsageError(
            f"{flag}: service {service.name!r} declares no outcome; "
            "write outcome: {type: binary} into its file"
        )
    taken_by = {"--id": request.id_column, "--unit": request.unit_column, "--label": request.label_column}
    groups = group_columns(request.group_columns, service)
    for _, column in groups:
        its = [one for one, name in taken_by.items() if name == column]
        if its:
            raise UsageError(f"--group: the column {column!r} is that of {its[0]}; name another")
    columns = Columns(request.id_column, request.unit_column, request.label_column, groups)
    with closing(
        Dataset(request.data, service.protocol, service.limits.body, columns, Truth(service))
    ) as data:
        order = order_of(data.units, request.seed, policy.baseline.requests, request.together)
        service = _checked(service, {stable: one, candidate: other}, stable)
        taken, parts = _taken(service, policy, stable, candidate, order, labelled=data.labelled > 0)

        async def run() -> None:
            ends = [
                Endpoint(name, version, call, request.together)
                for name, version in ((stable, one), (candidate, other))
            ]
            await live(taken, data.row, order, ends[0], ends[1], request.together, request.timeout)

        began = monotonic()
        asyncio.run(run())
        notes = _independent(service, data.units, "name the column with --unit")
        return _outcome(request, service, policy, parts, taken, order, began, notes)


def _independent(service: ModelService, units: NDArray[np.uint64], way_out: str) -> list[str]:
    """A note where users are declared and no row names one."""
    if not service.unit.sticky or units.any():
        return []
    told = "the service's unit is a user, and no row names one: rows of one user are taken for independent"
    return [f"{told} ({way_out})"]


def _recorded(request: Request, service: ModelService, policy: RolloutPolicy) -> Outcomes:
    if request.stable_answers is None or request.candidate_answers is None:
        raise UsageError("recorded answers are checked in pairs: --stable-answers and --candidate-answers")
    # A flag that is let pass would be believed: of --label, that labels were read.
    unread = [flag for flag, name in _OF_ROWS if getattr(request, name)]
    if unread:
        raise UsageError(
            f"{unread[0]} is about --data; in recorded answers stable's lines hold `request`, `unit`, "
            "`label` and `groups`"
        )
    with closing(Joined(request.stable_answers, request.candidate_answers, Truth(service))) as files:
        units = files.units()
        order = order_of(units, request.seed, policy.baseline.requests, request.together)
        stable, candidate = request.stable or "stable", request.candidate or "candidate"
        version = service.versions[service.stable]
        service = _checked(service, {stable: version, candidate: version}, stable)
        taken, parts = _taken(service, policy, stable, candidate, order, labelled=files.labelled > 0)
        taken.timed = files.timed
        began = monotonic()
        lost = over(taken, files, order, request.timeout)
        notes = _independent(service, units, "give stable's lines a `unit`")
        if lost:
            notes.append(f"{lost} requests have no answer of the candidate: they lower the coverage")
        if files.only_candidate:
            notes.append(
                f"{files.only_candidate} answers of the candidate are to requests stable has not: left out"
            )
        return _outcome(request, service, policy, parts, taken, order, began, notes)


def _taken(
    service: ModelService, policy: RolloutPolicy, stable: str, candidate: str, order: Order, *,
    labelled: bool,
) -> tuple[Taken, Split]:  # fmt: skip
    parts = split(policy, int(order.baseline.size), labelled=labelled)
    trial = Trial(service, parts.policy, stable, candidate)
    latencies = Latencies(
        {
            one.index: one.gate
            for one in parts.undecided
            if one.advisory and one.gate.metric.startswith("latency.")
        }
    )
    errors = RouteErrors(service.errors.status, service.errors.connect, service.errors.timeout)
    return Taken(trial, latencies, Failures(errors)), parts


def _outcome(
    request: Request, service: ModelService, policy: RolloutPolicy, parts: Split, taken: Taken, order: Order,
    began: float, notes: list[str],
) -> Outcomes:  # fmt: skip
    if any(step.approve is not None for step in policy.steps):
        notes.append("approve steps of the policy are not asked here: people approve a rollout")
    if taken.trial.beyond_capture:
        notes.append(
            f"{taken.trial.beyond_capture} rows are beyond the service's capture limits: their predictions "
            "are not judged, as behind a router"
        )
    if not taken.timed:
        notes.append("recorded answers without latency say nothing about latency")
    run = Run(
        taken.trial.stable, taken.trial.candidate, taken.state,
        int(order.baseline.size + order.pairs.size), taken.baseline, taken.pairs,
        order.blocks, request.seed, round(monotonic() - began, 3), tuple(notes),
    )  # fmt: skip
    analysis = taken.trial.analysis() if taken.frozen else None
    advice: list[Advice] = []
    if analysis is not None and taken.timed:
        said = taken.trial.advice(taken.latencies.gates, analysis.validity)
        advice = [*taken.latencies.unknown(), *said]
    shares = shares_of(taken.trial.constants, taken.trial.evidence().get(1))
    return judged(
        service.name, policy, parts, run, analysis, taken.problem or taken.unanswered(), advice, shares,
        require_all=request.require_all,
    )  # fmt: skip


def _checked(service: ModelService, versions: dict[str, Version], stable: str) -> ModelService:
    """The service with the two versions of this check, and nothing that only a router does."""
    if len(versions) == 1:
        raise UsageError("stable and candidate are the same version; give the URL of one of them")
    mirror = service.mirror.model_copy(update={"warm_up": 0, "noise_floor": 0.0})
    changed = {
        "versions": versions, "stable": stable, "side_effects": "none", "override": None, "mirror": mirror,
        "recording": Recording(), "inputs": {},
    }  # fmt: skip
    return service.model_copy(update=changed)
