"""Reading evidence as store.evidence does, many times as fast: checked whole, unpacked when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Final
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from ...errors import WireError
from ...store import evidence as plain
from ...store.evidence import WIRE, Evidence, SeriesKey
from ...store.measurement import CLUSTERS
from ...store.wire import check_version, read_msgpack
from .columns import Columns, Keys, StoredSeries
from .form import Form, Packed, Taking


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """As evidence.Packed; keys are read only where they are not those of another record."""

    key: msgspec.Raw
    clusters: Annotated[int, msgspec.Meta(ge=1, le=CLUSTERS)]
    n: bytes
    sum: bytes
    square: bytes


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    head: Evidence
    series: list[_Stored]


_decoder: Final = msgspec.msgpack.Decoder(_Wire)
_encoder: Final = msgspec.msgpack.Encoder()
_keys: Final = msgspec.msgpack.Decoder(SeriesKey)
# Of a body whose head comes first, as all are written: where the head begins, and what follows it.
_HEAD: Final = b"\x82\xa4head"
_SERIES: Final = b"\xa6series"
_NONE: Final = b"\x90"  # an empty list
_SHORT: Final = 0xFF  # bytes whose length takes one byte, besides the one that says that bytes follow
_SMALL: Final = 0x7F  # a number that takes one byte
_KNOWN: Final[WeakValueDictionary[bytes, Keys]] = WeakValueDictionary()  # many services have the same


def decode_evidence(data: bytes, like: Evidence | None = None) -> Evidence:
    """The record of a wire form. `like`: one that may have the same series, whose keys are then shared.

    Raises WireError for anything malformed, of another version, or impossible as sums of y in [-1, 1].
    """
    before = like.series if like is not None and isinstance(like.series, StoredSeries) else None
    forms = before.forms if before is not None else ()
    for form in forms:
        found = _alike(data, form)
        if found is not None:
            found[0].series = StoredSeries(form.keys, found[1], _newest_first(form, forms))
            return found[0]
    wire = read_msgpack(data, _decoder, "stored evidence", WIRE)
    head, series = wire.head, wire.series
    _check_head(head)
    known = before.packed if before is not None else None
    keys = _keys_of(head, series, known[0] if known is not None else None)
    try:
        packed = Packed(
            [one.clusters for one in series],
            [column for one in series for column in (one.n, one.sum, one.square)],
        )
        new = _form_of(data, keys, series, packed)
        columns = new.columns(data) if new is not None else None
        if columns is None:
            taking = Taking.of(packed, packed.starts)
            columns = taking.columns(np.frombuffer(packed.data, np.uint8))
    except ValueError:
        return plain.decode_evidence(data)  # which names what is wrong
    if not columns.possible:
        return plain.decode_evidence(data)
    again = known is not None and keys is known[0]  # what is read once needs no form
    head.series = StoredSeries(keys, columns, _newest_first(new, forms) if new is not None and again else ())
    return head


def _newest_first(form: Form, forms: tuple[Form, ...]) -> tuple[Form, ...]:
    """Two at most: sums that happen to be whole for a moment are packed in another form for that moment."""
    if forms and forms[0] is form:
        return forms
    return form, *[one for one in forms if one is not form][:1]


def _alike(data: bytes, form: Form) -> tuple[Evidence, Columns] | None:
    """The head and the columns of a body of this form; None where it is not, or not in order."""
    columns = form.columns(data) if data.startswith(_HEAD) else None
    if columns is None or not columns.possible:
        return None
    try:
        head = _decoder.decode(data[: len(data) - len(form.fixed)] + _SERIES + _NONE).head
        _check_head(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WireError):
        return None
    return head, columns


def _form_of(data: bytes, keys: Keys, series: Sequence[_Stored], packed: Packed) -> Form | None:
    """How a body lies in its bytes; None where it was written in another way than we do."""
    tail = _SERIES + _encoder.encode(series)
    if not series or not data.startswith(_HEAD) or not data.endswith(tail):
        return None
    before = 2 + (packed.lengths > _SHORT)
    # A list of five begins, its key follows, and a number of clusters that takes two bytes from 128 on.
    before[0::3] += 2 + keys.lengths + (packed.clusters > _SMALL)
    ends = np.cumsum(before + packed.lengths)
    starts = ends - packed.lengths + len(tail) - int(ends[-1])
    if (np.frombuffer(tail, np.uint8)[starts] != packed.form).any():
        return None
    return Form.of(keys, tail, Taking.of(packed, starts))


def _check_head(head: Evidence) -> None:
    check_version(head.wire, WIRE, "stored evidence")
    if head.series or not (isfinite(head.published) and isfinite(head.watermark)):
        raise WireError(f"evidence of {head.source!r}: its head is malformed")


def _keys_of(head: Evidence, series: Sequence[_Stored], known: Keys | None) -> Keys:
    parts = [bytes(one.key) for one in series]
    raw = b"".join(parts)  # each says where it ends, so none can be another's
    if known is not None and known.raw == raw:
        return known
    known = _KNOWN.get(raw)
    if known is not None:
        return known
    try:
        keys = tuple(_keys.decode(one.key) for one in series)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise WireError(f"evidence of {head.source!r}: the name of a series: {problem}") from problem
    if len(set(keys)) != len(keys):
        raise WireError(f"evidence of {head.source!r}: a series appears twice")
    _KNOWN[raw] = new = Keys(raw, keys, np.fromiter(map(len, parts), dtype=np.intp, count=len(parts)))
    return new
