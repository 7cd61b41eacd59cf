"""Whether all requests that were assigned are accounted for, lately, by routers that are heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ...store.evidence import Evidence
from ...store.rollouts import Outcome, ReplicaReport, RolloutRecord, Validity
from ..stats.apart import FEWEST, apart

UNDER_WAY: Final = 2.0  # seconds from a request's assignment until its facts are folded and published
FRESH: Final = 30.0  # seconds that evidence may be old while requests come in
_LOST_SHARE: Final = 0.01
_LOST_GAP: Final = 0.005  # difference of the lost shares of the arms
_SWITCHED: Final = 2.0  # seconds within which every worker has taken up a new epoch
_RESTARTS: Final = 3
_RESTARTS_WITHIN: Final = 60.0


def assigned(record: RolloutRecord, reports: Sequence[ReplicaReport]) -> dict[tuple[int, str], float]:
    """(epoch, arm) -> requests assigned, over all replicas and their earlier lives."""
    total: dict[tuple[int, str], float] = {}
    for report in reports:
        for epoch, arm, count in _by_rollout(report).get(f"{record.service}|{record.id}", ()):
            total[epoch, arm] = total.get((epoch, arm), 0.0) + count
    return total


_SORTED: Final[dict[int, tuple[ReplicaReport, dict[str, list[tuple[int, str, int]]]]]] = {}
_MOST_SORTED: Final = 256  # reports; a replica has one


def _by_rollout(report: ReplicaReport) -> dict[str, list[tuple[int, str, int]]]:
    """`assigned` of a report by "service|rollout", sorted once for all rollouts of a round."""
    known = _SORTED.get(id(report))
    if known is not None and known[0] is report:
        return known[1]
    found: dict[str, list[tuple[int, str, int]]] = {}
    for key, count in report.assigned.items():
        rollout, _, rest = key.rpartition("|")
        rollout, _, epoch = rollout.rpartition("|")
        if epoch.isdecimal():
            found.setdefault(rollout, []).append((int(epoch), rest, count))
    while len(_SORTED) >= _MOST_SORTED:
        del _SORTED[next(iter(_SORTED))]
    _SORTED[id(report)] = report, found
    return found


def known(found: Evidence, arm: str) -> float:
    """Requests of an arm that the evidence knows of, accounted or open, with those that are not analysed."""
    counts = found.arms.get(arm)
    return float(found.open.get(arm, 0) + (counts.accounted if counts is not None else 0))


def loss(
    record: RolloutRecord,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    assigned: Mapping[tuple[int, str], float],
) -> Iterator[Validity]:
    """Requests that were assigned and are neither accounted nor open, beyond what is under way."""
    reported = max((report.at for report in reports), default=0.0)
    published = max((found.published for found in evidence.values()), default=0.0)
    ends = [*(epoch.opened_at + _SWITCHED for epoch in record.epochs[1:]), reported][: len(record.epochs)]
    total: dict[str, float] = {}
    lost: dict[str, float] = {}
    both: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for epoch, end in zip(record.epochs, ends, strict=True):
        found = evidence.get(epoch.epoch)
        if found is None:
            continue
        until = min(end, reported)
        lag = (until - published + UNDER_WAY) / max(until - epoch.opened_at, UNDER_WAY)
        here: dict[str, tuple[float, float]] = {}
        for arm in ("stable", "candidate"):
            count = assigned.get((epoch.epoch, arm), 0.0)
            if count <= 0.0:
                continue
            # Assigned at an even pace, these last ones may not be in what was published.
            missing = count * (1.0 - min(1.0, max(0.0, lag))) - known(found, arm)
            here[arm] = max(0.0, missing), count
            total[arm] = total.get(arm, 0.0) + count
            lost[arm] = lost.get(arm, 0.0) + max(0.0, missing)
        if len(here) == 2:  # noqa: PLR2004 (both arms)
            both.append((here["candidate"], here["stable"]))
    count, gone = sum(total.values()), sum(lost.values())
    if count <= 0.0:
        return
    numbers = {"assigned": count, **{f"lost_{arm}": number for arm, number in lost.items()}}
    unequal = apart(both).beyond(_LOST_GAP)
    if gone > max(_LOST_SHARE * count, FEWEST) or unequal:
        arms = " and ".join(f"{lost[arm] / total[arm]:.2%} of {arm}'s" for arm in total)
        how = "unequally between the arms" if unequal else "more than can be explained by requests under way"
        reason = f"requests are missing from the evidence, {arms}, {how}: see the observer's log"
        yield Validity("loss", Outcome.ERROR, reason, numbers)
    else:
        yield Validity(
            "loss", Outcome.PASS, f"{gone / count:.2%} of {count:.0f} requests are unaccounted", numbers
        )


def age(
    record: RolloutRecord,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    assigned: Mapping[tuple[int, str], float],
    now: float,
) -> Iterator[Validity]:
    """Evidence that stands still while requests come in, or for want of any router that is heard.

    A merge's watermark may be a dead source's.
    """
    current = record.epochs[-1] if record.epochs else None
    if current is None or not reports:
        return
    found = evidence.get(current.epoch)
    published = current.opened_at if found is None else found.published
    seen = 0.0 if found is None else sum(known(found, arm) for arm in ("stable", "candidate"))
    since = sum(count for (epoch, _), count in assigned.items() if epoch == current.epoch) - seen
    age = now - published
    silent = now - max(report.at for report in reports)
    numbers = {"age": age, "assigned_since": max(0.0, since)}
    if age > FRESH and since > 0.0:
        reason = (
            f"evidence is {age:.0f} s old although {since:.0f} requests were assigned since: "
            "is the observer of every router running?"
        )
        yield Validity("evidence_age", Outcome.ERROR, reason, numbers)
    elif age > FRESH and silent > FRESH:
        # What it has seen since then nobody knows; time alone must not make it look proven.
        reason = f"no router has been heard for {silent:.0f} s: do they run, and reach the store?"
        yield Validity("evidence_age", Outcome.ERROR, reason, numbers)
    elif found is not None:
        yield Validity("evidence_age", Outcome.PASS, f"evidence is {max(0.0, age):.0f} s old", numbers)


def observers(reports: Sequence[ReplicaReport], now: float) -> Iterator[Validity]:
    """Observers that keep dying: what they had not published is lost each time."""
    for report in reports:
        recent = sum(1 for at in report.observer_restarts if now - _RESTARTS_WITHIN < at <= now)
        if recent > _RESTARTS:
            reason = (
                f"router {report.replica}: its observer restarted {recent} times within a minute, see its log"
            )
            yield Validity("observer", Outcome.ERROR, reason, {"restarts": float(recent)})
