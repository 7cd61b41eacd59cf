"""What the API answers with, as values that the command reads back: no statistics, quick to import."""

from __future__ import annotations

import msgspec

from ...store.evidence import MirrorCounts
from ...store.rollouts import Advice, AuditEntry, Blame, Calibration, Drift, Hold, Phase, Validity, Verdict
from ..rollout.explain import Explanation


class StepView(msgspec.Struct, frozen=True):
    """One step of the policy. `state`: done, now or next. `text`: as in `canary 5%, until gates`."""

    number: int
    place: str
    share: float
    state: str
    text: str
    seconds: float
    requests: int
    deadline: float | None


class GateView(msgspec.Struct, frozen=True):
    """One gate's latest verdict and the sentence that explains it."""

    sentence: str
    verdict: Verdict


class AddressView(msgspec.Struct, frozen=True):
    """An address of a version that a router leaves out. `unready`, `ejected`: of its `workers`, how many."""

    router: str
    version: str
    address: str
    unready: int
    ejected: int
    workers: int


class ControllerView(msgspec.Struct, frozen=True):
    """A controller of this store. `since`: epoch seconds from which it leads or stands by, None: not known.

    `asked`: the one that answers here.
    """

    name: str
    leads: bool
    since: float | None
    asked: bool


class Controllers(msgspec.Struct, frozen=True):
    """Who decides: the leader first, then those that stand by, longest first.

    `vacant`: seconds for which nobody has led; None while one does, and where nobody ever did.
    """

    leader: str | None
    controllers: tuple[ControllerView, ...]
    vacant: float | None = None


class ApprovalView(msgspec.Struct, frozen=True):
    """One approval. `step`: from 1. `digest`: of what it is bound to. `counts`: the step waits and has it."""

    by: str
    at: float
    step: int
    group: str
    until: float
    digest: str
    reason: str
    counts: bool


class Wanted(msgspec.Struct, frozen=True):
    """What a step `approve` asks of people. `missing`: how many more. `until`: then `action` is taken."""

    group: str | None
    count: int
    not_starter: bool
    valid_for: float
    missing: int
    until: float
    action: str


class RolloutView(msgspec.Struct, frozen=True):
    """One rollout as it stands. `exit_code`: what a command that waits for it ends with (0, 3, 4).

    `weight`: the candidate's share of users now, 0..1. `needs`: what the current step still lacks.
    `replicas`: router -> generation in force there; `generation` is the one that should be.
    `admin_sockets`: router -> where it is asked directly, as by `accede abort --direct`. `mirror`, `back`,
    `floor`: copies of this step, None where it makes none of that kind; `mirrored`, `mirrored_back`: their
    shares. `warm_up`: how many of them warmed the candidate up. `addresses`: of stable or candidate, those
    that a router finds not ready or has ejected. `controllers`: who decides. `wanted`: of people, in a step
    that waits for them.
    """

    id: str
    service: str
    stable: str
    candidate: str
    phase: Phase
    phase_since: float
    reason: str
    exit_code: int
    policy: str
    policy_hash: str
    attempt: int
    started_by: str
    started_at: float
    ended_at: float | None
    step: int | None
    steps: tuple[StepView, ...]
    weight: float
    mirrored: float
    needs: tuple[str, ...]
    next_step: str
    hold: Hold | None
    override: str | None
    gates: tuple[GateView, ...]
    validity: tuple[Validity, ...]
    looked_at: float | None
    candidate_requests: int
    stable_requests: int
    mirror: MirrorCounts | None
    generation: int
    replicas: dict[str, int]
    admin_sockets: dict[str, str]
    mirrored_back: float = 0.0
    back: MirrorCounts | None = None
    floor: MirrorCounts | None = None
    warm_up: MirrorCounts | None = None
    drift: tuple[Drift, ...] = ()
    blame: tuple[Blame, ...] = ()
    advice: tuple[Advice, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    addresses: tuple[AddressView, ...] = ()
    controllers: Controllers | None = None
    wanted: Wanted | None = None
    approvals: tuple[ApprovalView, ...] = ()


class RolloutLine(msgspec.Struct, frozen=True):
    """One rollout in a list."""

    id: str
    service: str
    stable: str
    candidate: str
    policy: str
    phase: Phase
    step: str
    weight: float
    reason: str
    started_by: str
    started_at: float
    ended_at: float | None
    exit_code: int


class ServiceView(msgspec.Struct, frozen=True):
    """One service. `stable`: what the store serves; `stable_in_file`: what Git says, None without a file."""

    name: str
    stable: str | None
    stable_in_file: str | None
    versions: tuple[str, ...]
    protocol: str
    generation: int
    replicas: dict[str, int]
    admin_sockets: dict[str, str]
    rollout: RolloutLine | None
    problem: str | None


class History(msgspec.Struct, frozen=True):
    """The audit trail of a service, oldest first."""

    service: str
    entries: tuple[AuditEntry, ...]


class DecisionLine(msgspec.Struct, frozen=True):
    """One decision in a list; `number` is what explain takes."""

    number: int
    at: float
    act: str
    reason: str


class Failure(msgspec.Struct, frozen=True):
    """What went wrong. `exit_code`: what a command ends with."""

    kind: str
    message: str
    exit_code: int


class Failed(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: Failure


class Services(msgspec.Struct, frozen=True):
    """All services by name; `problems`: what is wrong in the files. `controllers`: who decides."""

    services: tuple[ServiceView, ...]
    problems: tuple[str, ...]
    controllers: Controllers | None = None


class Rollouts(msgspec.Struct, frozen=True):
    """Rollouts, oldest first."""

    rollouts: tuple[RolloutLine, ...]


class Explained(msgspec.Struct, frozen=True):
    """One explanation and the list of decisions to choose from."""

    explanation: Explanation
    decisions: tuple[DecisionLine, ...]


class Health(msgspec.Struct, frozen=True):
    """`ok`, and otherwise why not. `role`: `leads` or `stands by`, of a controller that is ready.

    `warning`: what is wrong although this one is ready.
    """

    ok: bool
    reason: str = ""
    role: str = ""
    warning: str = ""
