"""From the flags of a simulation to its summary."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import numpy as np
from msgspec.structs import replace

from ...errors import FileError, NotFound, UsageError
from ...policies.load import check_pair, load_service, policy_document
from ...policies.policy import Gate, RolloutPolicy
from ...policies.service import ModelService, Version
from ...router.observer.extract import Grouping
from ...store.measurement import SlicePlan
from ...store.rollouts import Phase
from .harm import Harm, harm_of
from .play import Play, Played, play
from .recording import Recorded, Request, Side, read
from .summary import Summary, ending, steps

_TOLD_BY_STREAMS: Final = ("stream.", "tokens.")
_OTHERS: Final = ("outcome.", "uncertainty.", "metrics.")
_APPROVED: Final = (
    "approve steps are left out, as if everybody approved at once; steps are counted without them"
)
_OWN: Final = "stable-again"  # the name of stable's own answers in the candidate's place


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line."""

    service: Path
    recording: Path
    policy: str | None
    pairs: bool
    inject: tuple[str, ...]
    runs: int
    looks: int
    seed: int


def simulated(asked: Asked) -> tuple[Summary, Played]:
    """Do it; the summary, and the first rollout with its tracks. Raises AccedeError."""
    service = load_service(asked.service)
    harms = [harm_of(text) for text in asked.inject]
    recorded = read(asked.recording, pairs=asked.pairs)
    _check_kind(service, recorded)
    whole = _policy(asked, service)
    policy, left_out = _possible(whole.without_approvals(), service, recorded)
    if not policy.gates:
        raise UsageError("no gate of the policy can be simulated: " + "; ".join(left_out))
    affected = [_affected(harm, service, recorded) for harm in harms]
    values = _numbers(recorded)
    # Predictions of any size are recorded: an overflow is no deviation that anything could be measured in.
    with np.errstate(over="ignore", invalid="ignore"):
        sd = float(np.std(values)) if values else 0.0
    if any(harm.kind == "score" for harm in harms) and not values:
        raise UsageError("--inject score: the recorded predictions are no numbers")
    if any(harm.in_sd for harm in harms) and not 0.0 < sd < inf:
        raise UsageError("--inject score=…sd: the recorded predictions are no numbers that vary")
    service = service.model_copy(
        update={"versions": {**service.versions, _OWN: Version(url="http://candidate")}}
    )
    played: list[Played] = []
    told = monotonic() + 5.0
    for run in range(asked.runs):
        played.append(_one(service, policy, recorded, harms, affected, sd, asked, run))
        if monotonic() >= told:
            told = monotonic() + 5.0
            print(f"accede: {run + 1} of {asked.runs} rollouts", file=sys.stderr)  # noqa: T201
    summary = _summary(asked, service, policy, recorded, played, left_out)
    if policy.steps != whole.steps:
        summary = replace(summary, notes=(_APPROVED, *summary.notes))
    return summary, played[0]


def _one(
    service: ModelService, policy: RolloutPolicy, recorded: Recorded, harms: list[Harm],
    affected: list[np.ndarray[tuple[int], np.dtype[np.bool_]]], sd: float, asked: Asked, run: int,
) -> Played:  # fmt: skip
    random = Random(f"{asked.seed}/{run}")  # noqa: S311  (a simulation, repeatable by its seed)
    requests = recorded.requests
    # The first begins where the recording does; others anywhere in it, going round once.
    first = 0 if run == 0 else random.randrange(len(requests))
    began = requests[first].at
    round_ = recorded.seconds + recorded.seconds / len(requests)

    def coming() -> Iterator[tuple[Request, Side, float]]:
        for at in (*range(first, len(requests)), *range(first)):
            request = requests[at]
            candidate = request.candidate or request.stable
            for harm, there in zip(harms, affected, strict=True):
                if there[at]:
                    candidate = harm.done_to(candidate, sd, random)
            yield request, candidate, request.at + (round_ if at < first else 0.0)

    every = recorded.seconds / asked.looks
    looks = [began + every * (look + 1) for look in range(asked.looks)]
    return play(Play(service, policy, _OWN, random, began, tracked=run == 0), coming(), looks)


def _policy(asked: Asked, service: ModelService) -> RolloutPolicy:
    named: Path | str | None = asked.policy
    if named is None:
        if service.policy is None:
            raise UsageError(f"{asked.service} names no policy; give one with --policy")
        beside = asked.service.parent / service.policy
        named = beside if beside.is_file() else service.policy
    policy, document = policy_document(named)
    problems = check_pair(service, policy, document)
    if problems:
        raise FileError(problems)
    return policy


def _possible(
    policy: RolloutPolicy, service: ModelService, recorded: Recorded
) -> tuple[RolloutPolicy, list[str]]:
    """The policy without the gates that the recording cannot answer, and what to record for them."""
    seen = {path for request in recorded.requests for path in request.fields}
    left_out: list[str] = []
    kept: list[Gate] = []
    for gate in policy.gates:
        written = service.slices.get(gate.by) if gate.by is not None else None
        path = written.path if written is not None else None
        if gate.metric.startswith((*_TOLD_BY_STREAMS, *_OTHERS)):
            left_out.append(f"{gate.metric}: a recording does not hold what it needs")
        elif gate.by is not None and path is None:
            left_out.append(f"{gate.metric} by {gate.by}: a recording does not hold crossed slices")
        elif path is not None and path in service.recording.hashed:
            left_out.append(f"{gate.metric} by {gate.by}: remove {path} from `recording: {{hashed: …}}`")
        elif path is not None and path not in seen:
            left_out.append(f"{gate.metric} by {gate.by}: add {path} to `recording: {{request: [{path}]}}`")
        else:
            kept.append(gate)
    return policy.model_copy(update={"gates": tuple(kept)}), left_out


def _affected(
    harm: Harm, service: ModelService, recorded: Recorded
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which requests a harm is done to."""
    if not harm.group:
        return np.ones(len(recorded.requests), dtype=np.bool_)
    name, _, group = harm.group.partition("=")
    written = service.slices.get(name)
    if written is None or written.path is None:
        raise NotFound(f"--inject: service {service.name!r} has no slice {name!r} with a path")
    path = written.path
    grouping = Grouping(SlicePlan(name=name, path=path, values=written.values, bins=written.bins))
    if group not in grouping.names:
        raise NotFound(f"--inject: slice {name!r} has no group {group!r}; it has {', '.join(grouping.names)}")
    wanted = grouping.names.index(group)
    there = [grouping.of(request.fields.get(path)) == wanted for request in recorded.requests]
    if not any(there):
        raise UsageError(
            f"--inject: no recorded request is in {harm.group}; is {path} in `recording.request`?"
        )
    return np.array(there, dtype=np.bool_)


def _numbers(recorded: Recorded) -> list[float]:
    return [
        value for request in recorded.requests for value in request.stable.values
        if isinstance(value, float | int)
    ]  # fmt: skip


def _check_kind(service: ModelService, recorded: Recorded) -> None:
    """Refuse a recording of another kind of prediction than the service's file declares."""
    declared = service.prediction
    if declared.type not in {"number", "label"}:
        return
    other = str if declared.type == "number" else float
    sides = (side for request in recorded.requests for side in (request.stable, request.candidate))
    if any(isinstance(value, other) for side in sides if side is not None for value in side.values):
        seen = "texts" if other is str else "numbers"
        raise UsageError(
            f"the recording holds predictions that are {seen}; service {service.name!r} declares "
            f"prediction: {{type: {declared.type}}}"
        )


def _summary(
    asked: Asked, service: ModelService, policy: RolloutPolicy, recorded: Recorded, played: list[Played],
    left_out: list[str],
) -> Summary:  # fmt: skip
    notes: list[str] = []
    if not asked.pairs:
        notes.append(
            "stable's own answers stand for the candidate: in a shadow they differ in nothing but what is "
            "injected, and the load that two versions put on each other is not in them"
        )
    if service.unit.sticky:
        notes.append("requests are split one by one: that users return to their version is not simulated")
    if recorded.left_out:
        notes.append(f"{recorded.left_out} recorded lines are of no use here and left out")
    if recorded.cut:
        notes.append(f"{recorded.cut} lines at the end of a file were cut and left out")
    running = (Phase.BASELINE, Phase.SHADOW, Phase.CANARY)
    unfinished = ending(played, *running)
    if unfinished.count:
        notes.append(
            "unfinished: the recording ended before the policy did; record for longer, or more of it"
        )
    return Summary(
        service.name, policy.name, "recorded pairs" if asked.pairs else "stable against itself", asked.inject,
        len(recorded.requests), recorded.seconds, asked.runs, asked.looks, asked.seed,
        ending(played, Phase.PROMOTED), ending(played, Phase.ROLLED_BACK), ending(played, Phase.PAUSED),
        unfinished, steps(played[0]), tuple(left_out), tuple(notes),
    )  # fmt: skip
