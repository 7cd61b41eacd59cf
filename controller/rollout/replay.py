"""Decisions replayed: the analysis run again on the evidence that was stored with the decision."""

from __future__ import annotations

from ...errors import NotFound
from ...store.rollouts import Analysis, Decision, ReplicaReport, RolloutRecord, decode_record
from ..evidence.decoding import decode_evidence
from .looking import Analyse, policy_of


def replay(decision: Decision, analyse: Analyse | None = None) -> Analysis:
    """The analysis of a stored decision, computed anew; `analyse` defaults to the product's own.

    Raises NotFound where the decision was taken without a look (a person's abort or pause, a
    controller that could not look), WireError where a stored part cannot be read.
    """
    if decision.analysis is None:
        raise NotFound(
            f"decision {decision.number} of rollout {decision.rollout} ({decision.act}) "
            "was taken without a look"
        )
    if analyse is None:
        from ..analyse import analyse as own

        analyse = own
    record = decode_record(decision.before, RolloutRecord)
    evidence = {part.epoch: part for part in map(decode_evidence, decision.evidence)}
    reports = tuple(decode_record(report, ReplicaReport) for report in decision.reports)
    return analyse(record, policy_of(record.policy), evidence, reports, decision.analysis.at)


def same(decision: Decision, analyse: Analyse | None = None) -> bool:
    """True where the replay gives what was stored, number for number; also where nothing was looked at."""
    return decision.analysis is None or replay(decision, analyse) == decision.analysis
