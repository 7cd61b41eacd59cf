"""Evidence: what one source has accumulated for one epoch of one service, as sums that add.

A source is a replica and its boot. It publishes its own latest totals again and again; a later
publication replaces the earlier one, so a report that arrives twice or not at all does no harm. The
controller adds the latest of every source.

Sums are kept per series: (arm, slice, metric) -> clusters -> (n, Σy, Σy²) with y in [0, 1], or in
[-1, 1] for differences.

arm        `stable`, `candidate`: the arm a request was assigned to (never the one that answered).
           `pair`: candidate minus stable on the same mirrored request.
           `paired_stable`: the stable side of those same pairs.
slice      `` (all requests) or `name=group`.
metric     clustered by time (`plan.batch`):
             errors, missing, client_disconnects          y = 1 where it happened
             latency.pNN.over | .mid | .far               y = 1 at or above that threshold
             extraction                                   over answers without an error: y = 1 where no
                                                          usable prediction was found
           in cluster 0, or by unit cluster where the plan is sticky (arms), by time (pairs):
             mean                                         scaled, clipped prediction (mean of instances)
             bin.K                                        share of the request's predictions in bin K
             selected                                     share of the request's predictions selected
           pairs only, by time: agreement                 y = 1 where candidate and stable agree
In a pair, a failed candidate side is a disagreement and missing; its prediction metrics get no y.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from ..errors import WireError

WIRE = "accede.evidence/1"

K = TypeVar("K")

ArmKey = Literal["stable", "candidate", "pair", "paired_stable"]


class SeriesKey(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Which series: see the module's table."""

    arm: ArmKey
    slice: str
    metric: str


class Series(msgspec.Struct, array_like=True):
    """Sums per cluster; the three lists have equal length (1 or CLUSTERS)."""

    n: list[float]
    sum: list[float]
    square: list[float]


class ArmCounts(msgspec.Struct, array_like=True):
    """Bookkeeping of one arm in one epoch, as counts.

    `accounted`: exchanges folded into the sums. `uncaptured`: analysed without bodies, by design
    (sample, size limit). `bodies_lost`: bodies dropped by our own bounds. `unassignable`: requests
    without a unit key, excluded from analysis.
    """

    accounted: int = 0
    uncaptured: int = 0
    bodies_lost: int = 0
    unassignable: int = 0


class MirrorCounts(msgspec.Struct, array_like=True):
    """Fate of mirrored copies in one epoch: `chosen` = sent + all drops; `paired` have both sides."""

    chosen: int = 0
    sent: int = 0
    paired: int = 0
    dropped_in_flight: int = 0
    dropped_bytes: int = 0
    dropped_rate: int = 0
    dropped_size: int = 0
    lost: int = 0


class Evidence(msgspec.Struct):
    """One source's totals for (service, rollout, epoch).

    `published`, `watermark`: epoch seconds; every request of this source assigned before `watermark`
    is in the sums. `open`: exchanges assigned and not yet accounted, by arm.
    `latency`: arm -> sparse histogram {bin: count} (store.histogram). `values`: sparse histogram of
    stable's raw predictions, kept in epoch 0 only: {bin: count}, bins as `value_bin`. `labels`: label
    -> count of stable's predictions in epoch 0, at most 64 labels and `other`.
    """

    wire: str
    service: str
    rollout: str
    epoch: int
    source: str
    published: float
    watermark: float
    arms: dict[str, ArmCounts] = {}
    open: dict[str, int] = {}
    mirror: MirrorCounts = msgspec.field(default_factory=MirrorCounts)
    series: dict[SeriesKey, Series] = {}
    latency: dict[str, dict[int, int]] = {}
    values: dict[int, int] = {}
    labels: dict[str, int] = {}


def _series_list(evidence: Evidence) -> list[tuple[SeriesKey, Series]]:
    return sorted(evidence.series.items())


class _Wire(msgspec.Struct):
    """Evidence as it is stored: msgpack maps cannot have array keys everywhere, so series are pairs."""

    head: Evidence
    series: list[tuple[SeriesKey, Series]]


_decoder = msgspec.msgpack.Decoder(_Wire)


def encode_evidence(evidence: Evidence) -> bytes:
    """The wire form (msgpack)."""
    head = msgspec.structs.replace(evidence, series={})
    return msgspec.msgpack.encode(_Wire(head=head, series=_series_list(evidence)))


def decode_evidence(data: bytes) -> Evidence:
    """The record of a wire form. Raises WireError for anything malformed or of another version."""
    try:
        wire = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise WireError(f"stored evidence cannot be read: {problem}") from problem
    if wire.head.wire != WIRE:
        raise WireError(f"evidence has wire form {wire.head.wire!r}, this version reads {WIRE!r}")
    for key, series in wire.series:
        if not len(series.n) == len(series.sum) == len(series.square):
            raise WireError(f"evidence of {wire.head.source!r}: series {key} has lists of unequal length")
    return msgspec.structs.replace(wire.head, series=dict(wire.series))


def merge(parts: list[Evidence]) -> Evidence | None:
    """The sum over sources of one epoch; None without any part.

    Associative and commutative. `watermark` is the oldest, `published` the newest.
    """
    if not parts:
        return None
    first = parts[0]
    total = Evidence(
        wire=WIRE, service=first.service, rollout=first.rollout, epoch=first.epoch, source="*",
        published=max(part.published for part in parts), watermark=min(part.watermark for part in parts),
    )  # fmt: skip
    for part in parts:
        for arm, counts in part.arms.items():
            into = total.arms.setdefault(arm, ArmCounts())
            for name in ArmCounts.__struct_fields__:
                setattr(into, name, getattr(into, name) + getattr(counts, name))
        for name in MirrorCounts.__struct_fields__:
            setattr(total.mirror, name, getattr(total.mirror, name) + getattr(part.mirror, name))
        _add(total.open, part.open)
        _add(total.values, part.values)
        _add(total.labels, part.labels)
        for arm, histogram in part.latency.items():
            _add(total.latency.setdefault(arm, {}), histogram)
        for key, series in part.series.items():
            _add_series(total.series, key, series)
    return total


def _add(into: dict[K, int], more: dict[K, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def _add_series(into: dict[SeriesKey, Series], key: SeriesKey, series: Series) -> None:
    have = into.get(key)
    if have is None:
        into[key] = Series(list(series.n), list(series.sum), list(series.square))
        return
    if len(have.n) != len(series.n):
        raise WireError(f"series {key} has {len(have.n)} clusters at one source and {len(series.n)} at another")
    for index in range(len(have.n)):
        have.n[index] += series.n[index]
        have.sum[index] += series.sum[index]
        have.square[index] += series.square[index]
