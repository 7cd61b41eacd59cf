"""Predictions and labels: store.labels on a server. What one call carries goes in pieces, each whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from ...errors import StaleWrite, StoreError
from ..evidence import LABELS, Evidence, encode_evidence
from ..labels import (
    MAX_LABELS,
    MAX_PREDICTION_BYTES,
    MAX_PREDICTIONS,
    TOMBSTONES,
    Due,
    Held,
    Joined,
    Kept,
    Label,
    LabelCounts,
    Prediction,
    decode_label,
    decode_prediction,
    encode_label,
    encode_prediction,
    settle,
)
from .bodies import packed
from .connection import Argument, Connection
from .keys import new_version
from .label_scripts import DUE, EXPIRE, FOLD, KNOWN, LABELS_IN, PREDICTIONS

_AT_ONCE: Final = 500  # of one script, which holds the server up for some milliseconds
_TRIES: Final = 20  # each lost to another label of the same requests

T = TypeVar("T")


class RedisLabels:
    """A LabelStore (store.labels has the guarantees) within a RedisStore."""

    def __init__(
        self,
        connection: Connection,
        *,
        most_predictions: int = MAX_PREDICTIONS,
        most_labels: int = MAX_LABELS,
        most_bytes: int = MAX_PREDICTION_BYTES,
    ) -> None:
        self._most_bytes = most_bytes
        self._connection = connection
        self._most_predictions = most_predictions
        self._most_labels = most_labels

    def publish_predictions(self, service: str, predictions: Sequence[Prediction]) -> Kept:
        """Keep those that are new, as far as there is room."""
        self._known(service)
        by_rollout: dict[str, list[Prediction]] = {}
        for one in predictions:
            by_rollout.setdefault(one.rollout, []).append(one)
        new = no_room = 0
        for rollout, all_of_it in by_rollout.items():
            for some in _pieces(all_of_it):
                arguments: list[Argument] = [self._most_predictions, self._most_bytes, rollout]
                for one in some:
                    arguments += (
                        one.request, one.kind, repr(one.at), repr(one.until), encode_prediction(one)
                    )  # fmt: skip
                keys = self._keys(service, "pred", "kept", "totals", "due:")
                added, dropped = self._connection.run(PREDICTIONS, keys, arguments, writes=True)
                new, no_room = new + int(added), no_room + int(dropped)
        return Kept(new, no_room)

    def add_labels(self, service: str, labels: Sequence[Label], until: float) -> LabelCounts:
        """Keep those that are new until then, also on replicas: who sent them will not send them again."""
        self._known(service)
        counts = dict.fromkeys(LabelCounts.__struct_fields__, 0)
        for some in _distinct(labels):
            waiting = some
            for _ in range(_TRIES):
                waiting = self._add(service, waiting, until, counts)
                if not waiting:
                    break
            else:
                raise StoreError(
                    f"labels of service {service!r}: others write the same all the time: try again"
                )
        totals = self._keys(service, "totals")[0]
        told = [("HINCRBY", totals, f"label {name}", count) for name, count in counts.items() if count]
        self._connection.calls(told)
        self._connection.acknowledge(self._keys(service, "acknowledged")[0])
        return LabelCounts(**counts)

    def due(self, service: str, rollout: str, before: float, limit: int) -> Due:
        """Predictions assigned before, with something to fold, oldest first."""
        keys = self._keys(service, "pred", "labels", "folds", f"due:{rollout}")
        number, *rows = self._connection.run(DUE, keys, (rollout, repr(before), limit))
        return Due(
            int(number),
            tuple(
                Joined(decode_prediction(body), decode_label(label) if label else None, int(folded))
                for body, folded, label in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
            ),
        )

    def fold(
        self, service: str, rollout: str, number: int, rows: Sequence[Joined], sums: Sequence[Evidence]
    ) -> None:
        """Mark `rows` with their new `folded` and replace this source's evidence by `sums`."""
        keys = self._keys(service, "pred", "labels", "folds")
        keys += (
            self._connection.keys.of(service, "evidence", rollout),
            self._connection.keys.of(service, "versions", rollout),
        )
        keys += self._keys(service, "due:")
        arguments: list[Argument] = [rollout, number, len(sums), new_version()]
        for one in sums:
            arguments += f"{one.epoch}|{LABELS}", packed(encode_evidence(one))
        for row in rows:
            label = b"" if row.label is None else encode_label(row.label)
            arguments += row.prediction.request, row.prediction.kind, row.folded, label
        found = int(self._connection.run(FOLD, keys, arguments, writes=True))
        if found >= 0:
            raise StaleWrite(
                f"labels of service {service!r}, rollout {rollout}: fold {found} has been written, not "
                f"{number}: somebody else folded first"
            )

    def expire(self, now: float, limit: int) -> int:
        """Forget at most so many old predictions and labels of each kind; how many there were."""
        gone = 0
        for name in sorted(self._connection.call("SMEMBERS", self._connection.keys.labelled)):
            keys = self._keys(
                name.decode(), "pred", "kept", "gone", "labels", "labels_until", "totals", "due:"
            )
            left = limit - gone
            if left <= 0:
                break
            arguments = (repr(now), repr(now - TOMBSTONES), min(left, _AT_ONCE))
            gone += int(self._connection.run(EXPIRE, keys, arguments, writes=True))
        return gone

    def held(self, service: str) -> Held:
        """What has come in."""
        names = [f"label {name}" for name in LabelCounts.__struct_fields__]
        found = self._connection.call(
            "HMGET", self._keys(service, "totals")[0], "predictions", "dropped", *names
        )
        predictions, dropped, *labels = (int(count or 0) for count in found)
        return Held(
            predictions, dropped, LabelCounts(**dict(zip(LabelCounts.__struct_fields__, labels, strict=True)))
        )

    def _add(
        self, service: str, labels: Sequence[Label], until: float, counts: dict[str, int]
    ) -> list[Label]:
        """One attempt at labels of different requests; those that somebody else wrote meanwhile."""
        asked = [label.request for label in labels]
        found = self._connection.run(KNOWN, self._keys(service, "pred", "labels"), asked)
        room = self._most_labels - int(
            self._connection.call("HGET", self._keys(service, "totals")[0], "labels") or 0
        )
        arguments: list[Argument] = [repr(until)]
        told: dict[bytes, tuple[str, ...]] = {}
        for label, known, kept, body in zip(labels, found[::3], found[1::3], found[2::3], strict=True):
            stored = decode_label(body) if body else None
            settled, told[label.request] = _settled(label, stored, known=known, kept=kept, room=room)
            if settled is not None:
                room -= stored is None
                arguments += label.request, body, encode_label(settled)
        keys = self._keys(service, "pred", "labels", "labels_until", "totals", "due:")
        changed = set(self._connection.run(LABELS_IN, keys, arguments, writes=True))
        for request, names in told.items():
            if request not in changed:
                for name in names:
                    counts[name] += 1
        return [label for label in labels if label.request in changed]

    def _keys(self, service: str, *names: str) -> tuple[str, ...]:
        return tuple(self._connection.keys.of(service, name) for name in names)

    def _known(self, service: str) -> None:
        """Where `expire` looks."""
        self._connection.call("SADD", self._connection.keys.labelled, service)


def _settled(
    label: Label, stored: Label | None, *, known: int, kept: int, room: int
) -> tuple[Label | None, tuple[str, ...]]:
    """What is to be written of a label, and the counts it belongs to."""
    if stored is not None:
        merged, what = settle(stored, label)
        return (merged, ()) if what == "new" else (None, (what + "s",))
    if known and not kept:
        return None, ("expired",)
    if room <= 0:
        return None, ("no_room",)
    return label, ("new",) if known else ("new", "unknown")


def _pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]


def _distinct(labels: Sequence[Label]) -> Iterator[list[Label]]:
    """Pieces in which no request comes twice, in order."""
    piece: dict[bytes, Label] = {}
    for label in labels:
        if label.request in piece or len(piece) >= _AT_ONCE:
            yield list(piece.values())
            piece = {}
        piece[label.request] = label
    if piece:
        yield list(piece.values())
