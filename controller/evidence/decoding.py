"""Reading evidence as store.evidence does, many times as fast: checked whole, unpacked when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Final

import msgspec
import numpy as np

from ...errors import WireError
from ...store import evidence as plain
from ...store.evidence import WIRE, Evidence, SeriesKey
from ...store.measurement import CLUSTERS
from ...store.wire import check_version, read_msgpack
from .columns import Columns, Keys, StoredSeries

# Sums of y in [-1, 1] stay within n but for the rounding of whoever scaled y.
_ROUNDING: Final = 1e-6


class _Packed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """As evidence.Packed; keys are read only where they are not those of another record."""

    key: msgspec.Raw
    clusters: Annotated[int, msgspec.Meta(ge=1, le=CLUSTERS)]
    n: bytes
    sum: bytes
    square: bytes


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    head: Evidence
    series: list[_Packed]


_decoder: Final = msgspec.msgpack.Decoder(_Wire)
_keys: Final = msgspec.msgpack.Decoder(SeriesKey)


def decode_evidence(data: bytes, like: Evidence | None = None) -> Evidence:
    """The record of a wire form. `like`: one that may have the same series, whose keys are then shared.

    Raises WireError for anything malformed, of another version, or impossible as sums of y in [-1, 1].
    """
    wire = read_msgpack(data, _decoder, "stored evidence", WIRE)
    head, series = wire.head, wire.series
    check_version(head.wire, WIRE, "stored evidence")
    if head.series or not (isfinite(head.published) and isfinite(head.watermark)):
        raise WireError(f"evidence of {head.source!r}: its head is malformed")
    keys = _keys_of(head, series, like)
    try:
        packed = [column for one in series for column in (one.n, one.sum, one.square)]
        columns = Columns.packed([one.clusters for one in series], packed)
    except ValueError:
        return plain.decode_evidence(data)  # which names what is wrong
    if not _possible(columns):
        return plain.decode_evidence(data)
    head.series = StoredSeries(keys, columns)
    return head


def _keys_of(head: Evidence, series: Sequence[_Packed], like: Evidence | None) -> Keys:
    raw = b"".join([bytes(one.key) for one in series])  # each says where it ends, so none can be another's
    known = like.series.packed if like is not None and isinstance(like.series, StoredSeries) else None
    if known is not None and known[0].raw == raw:
        return known[0]
    try:
        keys = tuple(_keys.decode(one.key) for one in series)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise WireError(f"evidence of {head.source!r}: the name of a series: {problem}") from problem
    if len(set(keys)) != len(keys):
        raise WireError(f"evidence of {head.source!r}: a series appears twice")
    return Keys(raw, keys)


def _possible(columns: Columns) -> bool:
    """Whether all are sums of y in [-1, 1]. NaN is none."""
    for width, places in columns.by_width():
        sums = columns.floats(places, width)
        n, y, square = sums[:, 0], sums[:, 1], sums[:, 2]
        most = n + _ROUNDING
        if not (n.min() >= 0.0 and n.max() < np.inf and square.min() >= 0.0):
            return False
        if not (np.abs(y) <= most).all() or not (square <= most).all():
            return False
    return True
