"""What is gone: sources that will say no more, and a store's own past. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ...store.closing import CLOSED
from ...store.evidence import LABELS, Evidence
from ...store.rollouts import ReplicaReport, RolloutRecord
from ...store.routes import ServiceRoute

SILENT: Final = 3600.0  # seconds after which a router that says nothing is taken for gone
_RECENT: Final = 15.0  # seconds for which a report says what a router does now; it reports twice a second


def gone_back(
    stored: Mapping[str, ServiceRoute], reports: Sequence[ReplicaReport], now: float
) -> dict[str, str]:
    """Service -> what is wrong, where routers serve a generation that the store has not come to yet.

    Generations only grow, so the store has lost what it had acknowledged: restored from a copy, or a replica
    that had not everything was made primary. What is decided on it would be decided twice.
    """
    found: dict[str, str] = {}
    for report in reports:
        if abs(now - report.at) > _RECENT:
            continue
        for service, generation in report.generations.items():
            has = stored[service].generation if service in stored else 0
            if generation > has:
                found[service] = (
                    f"the store has gone back in time: router {report.replica} serves generation "
                    f"{generation}, the store has {has}; restore the store, or restart the routers to serve "
                    "what it has"
                )
    return found


def gone_reports(
    reports: Sequence[ReplicaReport], still_open: Iterable[RolloutRecord], now: float
) -> tuple[ReplicaReport, ...]:
    """Reports that nobody needs any more: of boots not heard for SILENT that served no open rollout.

    An open rollout needs the counts at assignment, against which its losses and sample ratios are checked,
    and what a router held. The newest of all reports stays: by its age it is known that none is heard.
    """
    if not reports:
        return ()
    newest = max(reports, key=lambda report: report.at)
    needed = {record.service: f"{record.service}|{record.id}|" for record in still_open}

    def serves(report: ReplicaReport) -> bool:
        held = {*report.direct, *report.tripped, *report.lapsed}
        counts = (*report.assigned, *report.finished)
        return any(
            service in held or any(key.startswith(begins) for key in counts)
            for service, begins in needed.items()
        )

    return tuple(one for one in reports if one is not newest and now - one.at > SILENT and not serves(one))


def gone_sources(
    evidence: Iterable[Evidence], reports: Sequence[ReplicaReport], now: float
) -> frozenset[str]:
    """Sources that will not publish again.

    A source is `replica:boot-life`, or `replica:boot-life.name` where a life goes on under another name.
    Its parent begins a life when the one before has ended, so all but the last of a boot are gone. A whole
    boot is when neither parent nor observer has been heard for SILENT.
    """
    newest: dict[str, tuple[int, int]] = {}
    heard = {report.source: report.at for report in reports}
    sources: dict[str, tuple[str, tuple[int, int]]] = {}
    for one in evidence:
        boot, dash, last = one.source.rpartition("-")
        number, dot, name = last.partition(".")
        if (
            one.source in {CLOSED, LABELS}
            or not dash
            or not number.isdecimal()
            or name.isdecimal() != bool(dot)
        ):
            continue
        life = int(number), int(name or 0)
        sources[one.source] = (boot, life)
        newest[boot] = max(newest.get(boot, life), life)
        heard[boot] = max(heard.get(boot, 0.0), one.published)
    return frozenset(
        source
        for source, (boot, life) in sources.items()
        if life < newest[boot] or now - heard[boot] > SILENT
    )
