"""What one look saw, as the state machine reads it: the analysis, and what routers say of themselves."""

from __future__ import annotations

from dataclasses import dataclass

from ...store.rollouts import Analysis, FrozenConstants, ReplicaReport, RolloutRecord


@dataclass(frozen=True, slots=True)
class Signals:
    """What the routers' reports say about one service: a reason each, or None."""

    direct: str | None = None
    tripped: str | None = None
    lapsed: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """All that one look saw.

    `baseline_requests`: of stable in epoch 0. `frozen`: what could be frozen from it, or None with
    `not_ready` saying why not. `broken`: why the controller itself could not look or act, which counts
    as an error. `subject`: what both versions are declared as now, in a step `approve`; '' where their file
    cannot be read.
    """

    analysis: Analysis
    signals: Signals = Signals()
    baseline_requests: int = 0
    frozen: FrozenConstants | None = None
    not_ready: str = ""
    broken: str = ""
    subject: str = ""


def read_signals(record: RolloutRecord, generation: int, reports: tuple[ReplicaReport, ...]) -> Signals:
    """What replicas say about the route in force; what they say of an older generation is past.

    A direct abort and a trip hold through all generations of their rollout, so only those before its start
    are past.
    """
    direct = tripped = lapsed = None
    for report in sorted(reports, key=lambda report: report.source):
        begun = report.generations.get(record.service, 0) >= record.generation
        if record.service in report.direct and begun and report.at >= record.started_at:
            direct = f"aborted directly at router {report.replica}: {report.direct[record.service]}"
        if report.tripped.get(record.service, -1) >= record.generation:
            tripped = (
                f"the breaker of router {report.replica} tripped: too many candidate errors within seconds"
            )
        if report.lapsed.get(record.service) == generation:
            lapsed = f"router {report.replica} was unattended and returned to stable by itself"
    return Signals(direct, tripped, lapsed)
