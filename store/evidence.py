"""Evidence: what one source has accumulated for one epoch of one service, as sums that add.

A source is a replica and its boot. It publishes its own latest totals again and again; a later
publication replaces the earlier one, so a report that arrives twice or not at all does no harm. The
controller adds the latest of every source.

Sums are kept per series: (arm, slice, metric) -> clusters -> (n, Σy, Σy²) with y in [0, 1], or in
[-1, 1] for differences.

arm        `stable`, `candidate`: the arm a request was assigned to (never the one that answered).
           `pair`: candidate minus stable on the same mirrored request.
           `paired_stable`: the stable side of those same pairs.
           `floor`: stable with itself, asked the same twice: the noise that any two answers have.
slice      `` (all requests) or `name=group`.
metric     clustered by time (`plan.batch`):
             errors, missing, client_disconnects          y = 1 where it happened
             latency.pNN.over | .mid | .far               y = 1 at or above that threshold; of pairs in a
                                                          shadow .mid and .far: the candidate at or above
                                                          that one, stable at or above its own .over
             extraction                                   over answers without an error: y = 1 where no
                                                          usable prediction was found
           the same, where the protocol tells of streams and tokens (plan.streams), whole traffic only:
             stream.first_token.pNN.over | .mid | .far    over streams: y = 1 at or above that threshold;
                                                          errors are over all, open ones over what their
                                                          age has passed
             stream.truncated                             over streams that began and ended: y = 1 where
                                                          nothing said that they were complete
             tokens.limited                               over answers without an error: y = 1 where the
                                                          output ended at its length limit
           by unit cluster, where the plan is sticky, whole traffic only:
             requests                                     all that were accounted, whatever became of them;
                                                          y = 0
           in cluster 0, or by unit cluster where the plan is sticky (arms), by time (pairs):
             mean                                         scaled, clipped prediction (mean of instances)
             bin.K                                        share of the request's predictions in bin K
             selected                                     share of the request's predictions selected
             rank                                         rank of the prediction among stable's (plan.ranks)
             metrics.NAME                                 the service's own metric, scaled and clipped
             uncertainty                                  stated sd, or half the interval, as a share of
                                                          plan.limits
             tokens.output                                tokens of an answer, as a share of plan.tokens,
                                                          clipped
           in cluster 0:
             metrics.NAME.missing, uncertainty.missing    over answers without an error: y = 1 where one of
                                                          its instances had none; `pair`: over those where
                                                          stable had it, y = 1 where the candidate had not
           pairs and `floor` only, by time:
             agreement                                    y = 1 where both sides agree
             explanation                                  `pair`: how alike both rank the features, 0..1
             difference                                   |difference| of scaled numbers, mean of instances
Every series has 1 or CLUSTERS clusters: 1 where its sums are all in cluster 0 by definition.
In a pair, a failed candidate side is a disagreement and missing; its prediction metrics get no y. Of the
floor only those count in which stable answered both times; `missing` of `floor`, by time, are those that it
answered the first time only: y = 1, and no others are in it.
"""

from __future__ import annotations

from array import array
from collections.abc import MutableMapping, MutableSequence, Sequence
from math import isfinite
from operator import add, gt
from typing import Annotated, Literal, TypeVar

import msgspec

from ..errors import WireError
from .columns import SAME, pack, unpack
from .measurement import CLUSTERS
from .wire import check_version, read_msgpack

WIRE = "accede.evidence/1"
TOTAL = "*"  # the source of a sum over sources
LABELS = "labels"  # the source of what labels add: no router's, so its watermark says nothing

K = TypeVar("K")

ArmKey = Literal["stable", "candidate", "pair", "paired_stable", "floor"]
Count = Annotated[int, msgspec.Meta(ge=0)]

# Sums of y in [-1, 1] stay within n but for the rounding of whoever scaled y.
_ROUNDING = 1e-6


class SeriesKey(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Which series: see the module's table."""

    arm: ArmKey
    slice: str
    metric: str


class Series(msgspec.Struct, array_like=True, eq=False):
    """Sums per cluster: Σ1, Σy, Σy². The three have equal length, 1 or CLUSTERS.

    Whoever counts holds lists; what was read holds arrays, of which Σy² is Σy itself where both are the same.
    """

    n: MutableSequence[float]
    sum: MutableSequence[float]
    square: MutableSequence[float]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Series):
            return NotImplemented
        mine, theirs = ((s.n, s.sum, s.square) for s in (self, other))
        return all(list(a) == list(b) for a, b in zip(mine, theirs, strict=True))

    __hash__ = None  # type: ignore[assignment]


class ArmCounts(msgspec.Struct, array_like=True):
    """Bookkeeping of one arm in one epoch, as counts.

    `accounted`: exchanges folded into the sums. `uncaptured`: analysed without bodies, by design
    (sample, size limit). `bodies_lost`: bodies dropped by our own bounds. `unassignable`: requests
    without a unit key, excluded from analysis. `undecodable`: answers in a content coding that the
    observer cannot undo; their predictions are missing. `unremembered`: predictions that labels were to be
    joined to, lost before they were stored (those of pairs are the candidate's).
    """

    accounted: Count = 0
    uncaptured: Count = 0
    bodies_lost: Count = 0
    unassignable: Count = 0
    undecodable: Count = 0
    unremembered: Count = 0


class MirrorCounts(msgspec.Struct, array_like=True):
    """Fate of copies of one kind in one epoch: `chosen` = sent + all drops; `paired` have both sides.

    `lost`: their bodies did not fit our own bounds, or this host had no descriptor for them (`unconnected`).
    `unpaired`: stable answered their request in the candidate's place. Beside them, in no other count:
    `warmed`, copies that warmed the candidate up, and `held`, requests that stable answered outside the epoch
    meanwhile.
    """

    chosen: Count = 0
    sent: Count = 0
    paired: Count = 0
    dropped_in_flight: Count = 0
    dropped_bytes: Count = 0
    dropped_rate: Count = 0
    dropped_size: Count = 0
    lost: Count = 0
    unpaired: Count = 0
    warmed: Count = 0
    held: Count = 0
    unconnected: Count = 0


class Evidence(msgspec.Struct):
    """One source's totals for (service, rollout, epoch).

    `published`, `watermark`: epoch seconds; every request of this source assigned before `watermark`
    is in the sums. `open`: exchanges assigned and not yet accounted, by arm.
    `mirror`, `back`, `floor`: copies of what stable served to the candidate, of what the candidate served
    to stable, and of what stable served to stable again.
    `latency`: arm (`pair`: a shadow's copies) -> sparse histogram {bin: count} (store.histogram).
    `values`: sparse histogram of stable's raw predictions, kept in epoch 0 only: {bin: count}, bins as
    `value_bin`. `labels`: label -> count of stable's predictions in epoch 0, at most 64 labels and `other`.
    `first_token`: as `latency`, of streams' first output. `tokens`: sparse histogram of stable's output
    tokens, as `values`.
    `inputs`: "arm|input" -> label -> count (router.observer.inputs).
    """

    wire: str
    service: str
    rollout: str
    epoch: Count
    source: str
    published: float
    watermark: float
    arms: dict[str, ArmCounts] = {}
    open: dict[str, Count] = {}
    mirror: MirrorCounts = msgspec.field(default_factory=MirrorCounts)
    series: MutableMapping[SeriesKey, Series] = {}
    latency: dict[str, dict[int, Count]] = {}
    values: dict[int, Count] = {}
    labels: dict[str, Count] = {}
    first_token: dict[str, dict[int, Count]] = {}
    tokens: dict[int, Count] = {}
    back: MirrorCounts = msgspec.field(default_factory=MirrorCounts)
    floor: MirrorCounts = msgspec.field(default_factory=MirrorCounts)
    inputs: dict[str, dict[str, Count]] = {}


class _Packed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One series as it is stored: its clusters, and three packed columns (store.columns)."""

    key: SeriesKey
    clusters: Annotated[int, msgspec.Meta(ge=1, le=CLUSTERS)]
    n: bytes
    sum: bytes
    square: bytes


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    """Evidence as it is stored: `head` is the record without its series."""

    head: Evidence
    series: list[_Packed]


_decoder = msgspec.msgpack.Decoder(_Wire)


def encode_evidence(evidence: Evidence) -> bytes:
    """The wire form (msgpack). Raises WireError where a series' lists have no or unequal lengths."""
    series = [_packed(evidence, key, sums) for key, sums in sorted(evidence.series.items())]
    return msgspec.msgpack.encode(_Wire(msgspec.structs.replace(evidence, series={}), series))


def decode_evidence(data: bytes) -> Evidence:
    """The record of a wire form.

    Raises WireError for anything malformed, of another version, or impossible as sums of y in [-1, 1].
    """
    wire = read_msgpack(data, _decoder, "stored evidence", WIRE)
    head = wire.head
    check_version(head.wire, WIRE, "stored evidence")
    if head.series or not (isfinite(head.published) and isfinite(head.watermark)):
        raise WireError(f"evidence of {head.source!r}: its head is malformed")
    for packed in wire.series:
        try:
            head.series[packed.key] = _unpacked(packed)
        except ValueError as problem:
            raise WireError(
                f"evidence of {head.source!r}: series {_text(packed.key)}: {problem}"
            ) from problem
    if len(head.series) != len(wire.series):
        raise WireError(f"evidence of {head.source!r}: a series appears twice")
    return head


def _packed(evidence: Evidence, key: SeriesKey, series: Series) -> _Packed:
    clusters = len(series.n)
    if not 1 <= clusters <= CLUSTERS or not clusters == len(series.sum) == len(series.square):
        raise WireError(
            f"evidence of {evidence.source!r}: series {_text(key)} has lists of {clusters}, "
            f"{len(series.sum)} and {len(series.square)} sums; equal lengths from 1 to {CLUSTERS} are allowed"
        )
    same = series.square is series.sum or series.square == series.sum
    square = SAME if same else pack(series.square)
    return _Packed(key, clusters, pack(series.n), pack(series.sum), square)


def _unpacked(packed: _Packed) -> Series:
    n, total = unpack(packed.n, packed.clusters), unpack(packed.sum, packed.clusters)
    square = total if packed.square == SAME else unpack(packed.square, packed.clusters)
    # The loop that names the culprit is ten times slower than asking whether there is one.
    if min(n) < 0 or min(square) < 0 or any(map(gt, map(abs, total), n)) or any(map(gt, square, n)):
        refuse_impossible(n, total, square)
    return Series(n, total, square)


def refuse_impossible(n: Sequence[float], total: Sequence[float], square: Sequence[float]) -> None:
    """Raise ValueError for what are no sums of y in [-1, 1]."""
    for count, y, y2 in zip(n, total, square, strict=True):
        most = count + _ROUNDING
        if count < 0 or not -most <= y <= most or not 0 <= y2 <= most:
            raise ValueError(f"n = {count:g}, Σy = {y:g}, Σy² = {y2:g} are no sums of y in [-1, 1]")


def _text(key: SeriesKey) -> str:
    return f"{key.arm}/{key.slice or 'all'}/{key.metric}"


def merge(parts: Sequence[Evidence]) -> Evidence | None:
    """The sum over sources of one epoch; None without any part.

    Associative and commutative, and none of `parts` is changed. `watermark` is the oldest, `published`
    the newest. Raises ValueError where the parts are not of one service, rollout and epoch, WireError
    where two sources keep a series in different numbers of clusters.
    """
    if not parts:
        return None
    first = parts[0]
    if any((p.service, p.rollout, p.epoch) != (first.service, first.rollout, first.epoch) for p in parts):
        raise ValueError("only evidence of one service, rollout and epoch adds")
    timed = [part for part in parts if part.source != LABELS] or parts
    total = Evidence(
        wire=WIRE, service=first.service, rollout=first.rollout, epoch=first.epoch, source=TOTAL,
        published=max(part.published for part in timed), watermark=min(part.watermark for part in timed),
    )  # fmt: skip
    for part in parts:
        _add_part(total, part)
    return total


def _add_part(total: Evidence, part: Evidence) -> None:
    for arm, counts in part.arms.items():
        _add_fields(total.arms.setdefault(arm, ArmCounts()), counts)
    _add_fields(total.mirror, part.mirror)
    _add_fields(total.back, part.back)
    _add_fields(total.floor, part.floor)
    _add(total.open, part.open)
    _add(total.values, part.values)
    _add(total.labels, part.labels)
    _add(total.tokens, part.tokens)
    for arm, histogram in part.latency.items():
        _add(total.latency.setdefault(arm, {}), histogram)
    for arm, histogram in part.first_token.items():
        _add(total.first_token.setdefault(arm, {}), histogram)
    for name, counts_of in part.inputs.items():
        _add(total.inputs.setdefault(name, {}), counts_of)
    for key, series in part.series.items():
        _add_series(total.series, key, series)


def _add_fields(into: ArmCounts | MirrorCounts, more: ArmCounts | MirrorCounts) -> None:
    for name in into.__struct_fields__:
        setattr(into, name, getattr(into, name) + getattr(more, name))


def _add(into: dict[K, int], more: dict[K, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def _add_series(into: MutableMapping[SeriesKey, Series], key: SeriesKey, series: Series) -> None:
    have = into.get(key)
    if have is None:
        total = array("d", series.sum)
        same = series.square is series.sum
        into[key] = Series(array("d", series.n), total, total if same else array("d", series.square))
        return
    if len(have.n) != len(series.n):
        raise WireError(
            f"series {_text(key)} has {len(have.n)} clusters at one source and {len(series.n)} at another"
        )
    same = have.square is have.sum and series.square is series.sum
    have.n = array("d", map(add, have.n, series.n))
    have.sum = array("d", map(add, have.sum, series.sum))
    have.square = have.sum if same else array("d", map(add, have.square, series.square))
