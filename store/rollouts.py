"""RolloutRecord: the truth about one rollout, its verdicts, decisions and audit trail.

Written by the controller only, together with the service's route, in one compare-and-set on
`version`. Everything a decision needs to be replayed is here or in the Decision: the policy as
canonical text, the frozen constants, the merged evidence it saw.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeVar

import msgspec

from .approvals import Approval, GateAt
from .measurement import RankTable
from .wire import check_version, read_json

WIRE = "accede.rollout/1"
# The other records carry their version as a tag that their wire form begins with; it is no field.
AUDIT_WIRE = "accede.audit/1"
DECISION_WIRE = "accede.decision/1"
REPORT_WIRE = "accede.report/1"


class Phase(StrEnum):
    """Where a rollout stands. The transitions are in controller/rollout/machine.py and nowhere else."""

    BASELINE = "baseline"
    SHADOW = "shadow"
    CANARY = "canary"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """True where nothing moves any more."""
        return self in {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED}


class Outcome(StrEnum):
    """The four verdicts: proven fine, proven harm, not enough evidence, could not measure."""

    PASS = "pass"  # noqa: S105 (a verdict, no password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cell's result: one gate in one slice, direction or bin. Units are the metric's own.

    `effect` names what estimate, interval and margin measure (`difference`, `ratio`, `share`).
    `log_e_harm` against `log_needed_harm` decides failure, `log_e_safe` against `log_needed_safe` proof.
    None: not computable, `reason` says why.
    """

    cell: str  # e.g. selection_rate{sex=female} down
    slice: str
    outcome: Outcome
    reason: str
    effect: Literal["difference", "ratio", "share"]
    unit: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    harm_at: float | None = None
    log_e_harm: float | None = None
    log_needed_harm: float | None = None
    log_e_safe: float | None = None
    log_needed_safe: float | None = None
    n_stable: float = 0
    n_candidate: float = 0
    method: str = ""  # e.g. "P4 time clusters (asymptotic)"
    progress: float | None = None  # log_e_safe / log_needed_safe, clipped to 0..1


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One gate's verdict at one look, the worst of its findings, with a sentence that says why."""

    gate: str  # text of the gate: "selection_rate by sex max_shift 5pp"
    index: int  # position in the policy
    place: Literal["shadow", "canary"]
    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...] = ()
    on_fail: Literal["rollback", "pause"] = "rollback"
    require: Literal["proof", "no-harm", "nothing"] = "proof"
    proven_last_weight: bool = False  # non-inferior on the last weight's evidence alone


class Validity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the evidence itself can be trusted.

    `check`: sample_ratio, inputs, loss, coverage, back_coverage, coding, extractor, evidence_age, observer,
    unattended or breaker.
    """

    check: str
    outcome: Outcome
    reason: str
    numbers: dict[str, float] = {}


DriftBetween = Literal[
    "candidate against stable", "now against the baseline", "requests against the training card"
]


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far two binned samples are apart: information, which decides nothing.

    The measures are None where there are fewer than 100 observations per bin (`note` says so); `ks` and
    `wasserstein` (in the prediction's own unit) also where bins have no order. `log_e`: against "both arms
    are distributed equally", valid at every look. `alert`: more than the training card declares.
    """

    what: str  # predictions, input amount
    between: DriftBetween
    n_reference: float
    n_now: float
    bins: int
    psi: float | None = None
    js: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    chi_squared: float | None = None
    df: int = 0
    log_e: float | None = None
    note: str = ""
    alert: bool = False


class Blame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison in the report on who is to blame, which has no power to decide.

    `log_adjusted`: of the E-value adjusted for all comparisons. `blamed`: it proves harm alone among all;
    `discovered`: it is among those of which at most a share of the level is wrong.
    """

    cell: str
    log_e: float
    log_adjusted: float
    blamed: bool
    discovered: bool


class Advice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the pairs of a shadow say of one latency gate, which only a canary decides.

    `index`: of the gate in the policy. `factor`: candidate's quantile over stable's, None with too few
    answers. `margin`: the factor allowed, as snapped to bins.
    """

    index: int
    gate: str
    outcome: Outcome
    reason: str
    margin: float | None = None
    factor: float | None = None
    pairs: float = 0.0


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well what versions state fits what turned out true in one step: information, which decides nothing.

    `what`: calibration error, or coverage of intervals; shares. None where there are too few labels.
    `*_by_chance`: what a calibrated version would show of so many.
    """

    what: str
    step: int  # as shown, from 1
    place: str
    n_stable: float
    n_candidate: float
    stable: float | None = None
    candidate: float | None = None
    stable_by_chance: float | None = None
    candidate_by_chance: float | None = None
    note: str = ""


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One look at the evidence: all verdicts and validity checks, and the candidate's exposure."""

    at: float
    verdicts: tuple[Verdict, ...]
    validity: tuple[Validity, ...]
    candidate_requests: int = 0  # assigned to (canary) or paired with (shadow) the candidate in this step
    stable_requests: int = 0  # of stable in this step
    drift: tuple[Drift, ...] = ()
    blame: tuple[Blame, ...] = ()
    advice: tuple[Advice, ...] = ()
    calibration: tuple[Calibration, ...] = ()


class FrozenConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What epoch 0 fixed for the whole rollout, in scaled units unless said.

    `centres`, `deviations`: "metric|slice" -> mean and sd of stable's y. `limits`: raw units.
    `quantiles`: latency metric -> stable's quantile in seconds. `shares`: bin or class shares.
    """

    limits: tuple[float, float] | None
    centres: dict[str, float]
    deviations: dict[str, float]
    quantiles: dict[str, float]
    edges: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    shares: dict[str, float] = {}
    requests: int = 0
    autocorrelation_time: float = 1.0  # tau_int of stable's outcomes, in requests
    groups: dict[str, float] = {}  # "slice=group" -> share of stable's requests
    sticky: bool = False  # several requests of one unit, which are then not independent
    tokens: float | None = None  # output tokens that are y = 1
    ranks: RankTable | None = None  # stable's distribution, where a gate asks for prediction.rank
    spans: dict[str, float] = {}  # numeric metric of the service's own -> its range's length
    batch: float = 5.0  # seconds of a time cluster, of every epoch of the rollout
    min_coverage: float = 0.95  # least share of mirrored copies with both sides (the service's)
    references: dict[str, str] = {}  # slice -> "slice=group" that the others are compared with
    shared: tuple[str, ...] = ()  # slices in several of whose groups one request may be
    label_sample: float = 1.0  # share of requests that are remembered for labels


class EpochRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One epoch as it was opened: step (None for the baseline), weight and mirrored share (0..1).

    `mirror_back`: share of the candidate's requests that stable gets a copy of.

    `centres` and `thresholds` (latency metric -> over, mid, far bins) are this epoch's, never recomputed.
    """

    epoch: int
    step: int | None
    place: Literal["baseline", "shadow", "canary"]
    weight: float
    mirrored: float
    opened_at: float
    centres: dict[str, float] = {}
    thresholds: dict[str, tuple[int, int, int]] = {}
    mirror_back: float = 0.0
    batch: float = 5.0  # seconds of a time cluster


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a rollout does not advance, since when, and what happens when the clock runs out.

    `under`: the pause that an error found while paused has covered; it returns when the error is gone.
    `before`: seconds for which an error had held already, before it went for less than its clock.
    """

    kind: Literal["operator", "inconclusive", "gate", "error", "unattended", "finished"]
    reason: str
    since: float
    until: float
    action: Literal["rollback", "pause"]
    under: Hold | None = None
    before: float = 0.0


class RolloutRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of one rollout. Times are epoch seconds.

    `version` is the compare-and-set counter (1 at creation). `policy`: canonical text; `attempt`: how
    often this candidate (digest) was rolled out before. `paused_from`: the phase to resume to.
    `held_for`: seconds spent paused in this step, which no minimum counts. `reason`: why it is where
    it is, in a sentence. `generation`: of the route it began with. `erred`: seconds for which errors held
    that went at `calm_since`. `approvals`: those that stand, and those that earlier steps went on by.
    `proven`: in a step `approve`, the gates that have been proven during it.
    """

    wire: str
    id: str
    service: str
    version: int
    stable: str
    candidate: str
    candidate_digest: str
    policy_name: str
    policy_hash: str
    policy: str
    attempt: int
    salt: str
    started_by: str
    started_at: float
    phase: Phase
    phase_since: float
    step: int | None
    step_since: float
    epoch: int
    epochs: tuple[EpochRecord, ...]
    reason: str
    constants: FrozenConstants | None = None
    hold: Hold | None = None
    paused_from: Phase | None = None
    held_for: float = 0.0
    held_total: float = 0.0
    analysis: Analysis | None = None
    override: str | None = None
    ended_at: float | None = None
    generation: int = 0
    erred: float = 0.0
    calm_since: float | None = None
    approvals: tuple[Approval, ...] = ()
    proven: tuple[GateAt, ...] = ()

    def ended_before(self, at: float) -> bool:
        """Whether it has ended, and before then."""
        return self.phase.ended and (self.phase_since if self.ended_at is None else self.ended_at) < at


class AuditEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="wire", tag=AUDIT_WIRE):
    """One act or decision, append-only. `actor`: who, or `controller`, or a router's name."""

    at: float
    service: str
    rollout: str | None
    actor: str
    act: str  # start, advance, promote, rollback, pause, resume, abort, override, approve, void, hold, …
    reason: str
    detail: dict[str, str] = {}


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="wire", tag=DECISION_WIRE):
    """A change of phase, step or weight with all it saw, so that it can be replayed.

    `before`: the record it was taken on (wire form). `evidence`: encoded merged Evidence per epoch.
    """

    rollout: str
    number: int  # 1, 2, … per rollout: the record's version after it
    at: float
    act: str
    reason: str
    before: bytes
    evidence: tuple[bytes, ...]
    reports: tuple[bytes, ...]
    analysis: Analysis | None


class AddressState(msgspec.Struct, frozen=True):
    """An address of a version that workers leave out: `unready`, `ejected` are how many of them.

    `address`: host and port, nothing else of its URL.
    """

    service: str
    version: str
    address: str
    unready: int
    ejected: int


class ReplicaReport(msgspec.Struct, frozen=True, tag_field="wire", tag=REPORT_WIRE):
    """What a router replica says about itself; published by its parent about twice a second.

    Fields that a reader does not know are passed over: routers are upgraded before the controller.

    `generations`: service -> generation in force on every worker. `assigned`, `finished`: counts per
    "service|rollout|epoch|arm" summed over workers that live and lived, from memory that survives them.
    `tripped`, `lapsed`: service -> generation at which the breaker tripped / the lease ran out.
    `direct`: services aborted on the admin socket, with the reason. `addresses`: those that any of its
    `workers` leaves out, 64 at most.
    """

    source: str
    replica: str
    at: float
    generations: dict[str, int] = {}
    assigned: dict[str, int] = {}
    finished: dict[str, int] = {}
    tripped: dict[str, int] = {}
    lapsed: dict[str, int] = {}
    direct: dict[str, str] = {}
    observer_restarts: tuple[float, ...] = ()
    worker_restarts: int = 0
    admin_socket: str = ""
    addresses: tuple[AddressState, ...] = ()
    workers: int = 0


R = TypeVar("R", bound=msgspec.Struct)

_VERSIONS: dict[type[msgspec.Struct], str] = {
    RolloutRecord: WIRE,
    AuditEntry: AUDIT_WIRE,
    Decision: DECISION_WIRE,
    ReplicaReport: REPORT_WIRE,
}


def encode_record(record: msgspec.Struct) -> bytes:
    """The JSON wire form of a record of this module.

    JSON knows no NaN and no infinity: what is not computable is None. A store refuses to write others.
    """
    return msgspec.json.encode(record)


def decode_record(data: bytes, kind: type[R]) -> R:
    """The record of a wire form. Raises WireError, naming the kind, also for one of another version."""
    version = _VERSIONS.get(kind)
    what = f"a stored {kind.__name__}"
    record = read_json(data, msgspec.json.Decoder(kind), what, version)
    if isinstance(record, RolloutRecord):
        check_version(record.wire, WIRE, what)
    return record
