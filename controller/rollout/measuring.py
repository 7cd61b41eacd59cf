"""The measurement plan of an epoch: what the routers accumulate, from the files and the frozen constants."""

from __future__ import annotations

from typing import Final

from ...errors import Conflict
from ...policies.groups import groups_of_slice
from ...policies.label_rules import told_by_labels
from ...policies.metrics import on_labels
from ...policies.outcome import OutcomeType
from ...policies.pair_rules import TELLING
from ...policies.policy import RolloutPolicy
from ...policies.protocols import PROTOCOLS
from ...policies.service import ModelService
from ...store.evidence import Evidence
from ...store.measurement import (
    EVIDENCE_LIMIT,
    Extraction,
    InputPlan,
    LatencyThresholds,
    MeasurementPlan,
    RankTable,
    Selected,
    SlicePlan,
    Stage,
    ValuePlan,
    estimated_bytes,
    is_latency,
)
from ...store.rollouts import EpochRecord, FrozenConstants, RolloutRecord
from ..analysis.cells import series_of
from ..analysis.length import batch_of
from ..analysis.reference import MAX_CLASSES
from ..labels.folding import meaning_of
from ..labels.size import label_bytes
from .mirroring import noise_floor

ACCOUNT_AFTER: Final = 10.0  # seconds; an exchange open for longer is accounted as it stands
# The same where answers are streamed, whose ends, tokens and pairs would be unknown beyond it: some
# thousand tokens at 40 a second.
ACCOUNT_STREAMS_AFTER: Final = 120.0


def measurement_plan(
    record: RolloutRecord | None,
    policy: RolloutPolicy,
    service: ModelService,
    epoch: EpochRecord,
    constants: FrozenConstants | None,
) -> MeasurementPlan:
    """The plan of one epoch. `record` None or `constants` None: only the baseline can be planned.

    In the baseline the limits are the declared range, else unknown until they are frozen.
    """
    stage: Stage = epoch.place
    prediction = service.prediction
    return MeasurementPlan(
        rollout=record.id if record is not None else "",
        epoch=epoch.epoch,
        stage=stage,
        extraction=extraction_of(service),
        batch=batch_of(policy, constants),
        account_after=min(
            service.limits.deadline,
            ACCOUNT_STREAMS_AFTER if service.protocol in TELLING else ACCOUNT_AFTER,
        ),
        sticky=service.unit.sticky,
        limits=constants.limits if constants is not None else prediction.range,
        thresholds=tuple(
            LatencyThresholds(metric, *bins) for metric, bins in sorted(epoch.thresholds.items())
        ),
        edges=constants.edges if constants is not None else (),
        classes=constants.classes if constants is not None else (),
        sliced_metrics=sliced_metrics(policy, service),
        back=epoch.mirror_back > 0.0,
        floor=noise_floor(service, epoch) > 0.0,
        inputs=inputs_of(service),
        streams=service.protocol in TELLING,
        tokens=constants.tokens if constants is not None else None,
        ranks=constants.ranks if constants is not None else None,
        labels=remembers(policy, service),
        label_sample=service.outcome.sample if service.outcome is not None else 1.0,
        label_keep=service.outcome.keep if service.outcome is not None else 0.0,
        outcome=_outcome(policy, service),
    )


def remembers(policy: RolloutPolicy, service: ModelService) -> bool:
    """Whether predictions are remembered, so that labels can be joined to them."""
    return service.outcome is not None and any(on_labels(gate) for gate in policy.gates)


def _outcome(policy: RolloutPolicy, service: ModelService) -> OutcomeType | None:
    remembered = service.outcome if remembers(policy, service) else None
    return None if remembered is None else remembered.type


def extraction_of(service: ModelService) -> Extraction | None:
    """How the service's bodies are read; None where nothing says where predictions stand."""
    prediction = service.prediction
    path = prediction.path or ""
    spoken = PROTOCOLS[service.protocol]
    if not path and not spoken.predicts_at:
        return None
    kind = prediction.type
    if kind not in spoken.types:
        if service.protocol not in TELLING:
            return None
        kind = "text"  # nothing was declared, and streams and tokens are read all the same
    selected = prediction.selected
    return Extraction(
        path=path,
        type=kind,
        selected=Selected(selected.operator, selected.operand) if selected is not None else None,
        agree_within=prediction.agree_within,
        slices=tuple(
            slice_plan(name, service) for name in service.slices if name not in told_by_labels(service)
        ),
        values=tuple(
            ValuePlan(name=name, path=one.path, type=one.type, range=one.range or (0.0, 1.0))
            for name, one in service.metrics.items()
        ),
        uncertainty=service.uncertainty.path if service.uncertainty is not None else "",
        explanation=service.explanation.path if service.explanation is not None else "",
    )


def slice_plan(name: str, service: ModelService) -> SlicePlan:
    """How a slice of the service is read from requests."""
    one = service.slices[name]
    parts = tuple(slice_plan(part, service) for part in one.cross)
    return SlicePlan(name=name, path=one.path or "", values=one.values, bins=one.bins, cross=parts)


def inputs_of(service: ModelService) -> tuple[InputPlan, ...]:
    """The input features to count."""
    return tuple(
        InputPlan(name=name, path=one.path, type=one.type, range=one.range, values=one.values)
        for name, one in service.inputs.items()
    )


def sliced_metrics(policy: RolloutPolicy, service: ModelService) -> dict[str, tuple[str, ...]]:
    """Series -> the slices that some gate asks for and requests tell, in the policy's order."""
    wanted: dict[str, tuple[str, ...]] = {}
    unseen = told_by_labels(service)
    for gate in policy.gates:
        if gate.by is not None and gate.by not in unseen:
            series = series_of(gate.metric)
            have = wanted.get(series, ())
            if gate.by not in have:
                wanted[series] = (*have, gate.by)
    return wanted


def require_affordable(policy: RolloutPolicy, service: ModelService, rollout: str) -> None:
    """Refuse a rollout whose evidence would outgrow what a source may publish. Raises Conflict.

    Constants are not frozen yet, so ten bins, or as many classes as there may be, and every latency metric
    are assumed.
    """
    numeric = service.prediction.type == "number"
    latencies = sorted({gate.metric for gate in policy.gates if is_latency(gate.metric)})
    steps: set[tuple[Stage, bool]] = {
        (step.place, step.mirror_back is not None) for step in policy.steps if step.place != "approve"
    }
    for place, back in sorted(steps):
        plan = MeasurementPlan(
            rollout=rollout,
            epoch=1,
            stage=place,
            extraction=extraction_of(service),
            batch=batch_of(policy, None),
            account_after=ACCOUNT_AFTER,
            sticky=service.unit.sticky,
            thresholds=tuple(LatencyThresholds(metric, 0, 0, 0) for metric in latencies),
            edges=(0.0,) * 9 if numeric else (),
            classes=() if numeric else ("",) * MAX_CLASSES,
            sliced_metrics=sliced_metrics(policy, service),
            back=back,
            limits=(0.0, 1.0) if numeric else None,
            ranks=RankTable((), (0.5,)) if any(g.metric == "prediction.rank" for g in policy.gates) else None,
            floor=service.mirror.noise_floor > 0.0 and (back or place == "shadow"),
            inputs=inputs_of(service),
            streams=service.protocol in TELLING,
            outcome=_outcome(policy, service),
        )
        meaning = meaning_of(policy, plan, None)
        counts = {name: len(groups_of_slice(name, service.slices)) + 1 for name in service.slices}
        labels = 0 if meaning is None else label_bytes(plan, meaning, counts)
        for size, whose in ((estimated_bytes(plan), "per router"), (labels, "for its labels")):
            if size > EVIDENCE_LIMIT:
                gates = ", ".join(f"{gate.metric} by {gate.by}" for gate in policy.gates if gate.by)
                raise Conflict(
                    f"policy {policy.name!r} on service {service.name!r}: the evidence of a {place} step "
                    f"would take {size // 1024} KiB {whose}, allowed are {EVIDENCE_LIMIT // 1024}; "
                    f"drop or coarsen slices (gates by slice: {gates or 'none'})"
                )


def baseline_requests(evidence: Evidence | None) -> int:
    """How many of stable's requests epoch 0 has accounted, those without a unit key excluded."""
    if evidence is None or "stable" not in evidence.arms:
        return 0
    counts = evidence.arms["stable"]
    return counts.accounted - counts.unassignable
