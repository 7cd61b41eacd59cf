"""Labels that come later, the log of predictions they are joined to, and the Protocol of who keeps both.

A router's observer publishes one Prediction per analysed request (and per pair) where a policy asks for
outcomes. Feedback brings Labels, before or after. The controller joins what is mature and folds it into
evidence of a source of its own (`evidence.LABELS`). Request ids are kept as digests, attributes as
group names: a label can be found by its request id, a user cannot be found by the log.

Guarantees every implementation gives (tests/store holds each of them to it):

1. A prediction published twice is one; of two with one key the first stands. The same for labels: a value
   and a set of groups are set once, the same again is a duplicate, another one a conflict.
2. A label may come before its prediction: it waits, for as long as its service keeps labels.
3. `fold` writes sums and marks what they hold, together or not at all, and only on the number that `due`
   gave: a prediction and its label are counted exactly once whoever is killed in between, and whoever else
   folds at the same time (StaleWrite, nothing written).
4. Both are bounded per service; what finds no room is refused and counted. `expire` forgets what is old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Final, Protocol

import msgspec

from ..errors import WireError
from .evidence import Evidence

KEY_BYTES: Final = 16
MAX_PREDICTIONS: Final = 5_000_000  # of one service; about 1 GB where each has one value
MAX_PREDICTION_BYTES: Final = 2 * 2**30  # of one service, as they are stored: batches have many values
MAX_LABELS: Final = 5_000_000
MOST_INSTANCES: Final = 10_000  # of one request; a batch beyond it gets no labels
TOMBSTONES: Final = 7 * 86400.0  # seconds for which it is still known that a prediction had been there

ARM, PAIR = 0, 1  # kinds of predictions
COUNTED, VALUED, GROUPED = 1, 2, 4  # what of a prediction is in the sums: it, its label's value, its groups

Value = float | str | None


class Prediction(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request's predictions in one epoch. `request`: see `request_key`. `at`: of assignment, in s.

    `kind`: ARM, of the randomised `arm` (0 stable, 1 candidate); PAIR, of both on a mirrored request.
    `unit`: cluster of an arm's unit, 0 where every request is one. `batch`: that of a pair's time, else 0.
    `sides`: values of every instance, None where it has none; of a PAIR stable's, then the candidate's.
    `stated`: as `sides`, the interval that the model states for each value; () where it states none.
    `groups`: `slice=group` for the whole request, or one for each instance.
    """

    request: bytes
    kind: int
    rollout: str
    epoch: int
    at: float
    until: float
    arm: int
    unit: int
    batch: int
    sides: tuple[tuple[Value, ...], ...]
    stated: tuple[tuple[tuple[float, float] | None, ...], ...] = ()
    groups: tuple[str | tuple[str, ...], ...] = ()


class Label(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was true: one value for each instance (1.0 and 0.0 where outcomes are binary), () where unknown.

    `groups`: `slice=group` of attributes that only feedback knows.
    """

    request: bytes
    values: tuple[float | str, ...] = ()
    groups: tuple[str, ...] = ()


class LabelCounts(msgspec.Struct, frozen=True):
    """What became of some labels. `new` of them `unknown`: no prediction is there, yet or any more."""

    new: int = 0
    duplicates: int = 0
    conflicts: int = 0
    unknown: int = 0
    expired: int = 0
    no_room: int = 0


class Kept(msgspec.Struct, frozen=True):
    """What became of some predictions: `no_room` of them, the last, are lost; others had been there.

    Of those of several rollouts, it may be the last of each.
    """

    new: int = 0
    no_room: int = 0


class Joined(msgspec.Struct, frozen=True):
    """A prediction, its label if there is one, and what of both is in the sums already."""

    prediction: Prediction
    label: Label | None
    folded: int


class Due(msgspec.Struct, frozen=True):
    """What is to be folded, oldest first, and the number to fold it under."""

    number: int
    rows: tuple[Joined, ...]


class Held(msgspec.Struct, frozen=True):
    """Totals of one service since its store was made. `dropped`: predictions that found no room."""

    predictions: int = 0
    dropped: int = 0
    labels: LabelCounts = LabelCounts()


class LabelStore(Protocol):
    """Where predictions and labels meet."""

    def publish_predictions(self, service: str, predictions: Sequence[Prediction]) -> Kept:
        """Keep those that are new, as far as there is room. Raises WireError for what cannot be written."""
        ...

    def add_labels(self, service: str, labels: Sequence[Label], until: float) -> LabelCounts:
        """Keep those that are new until then, epoch seconds."""
        ...

    def due(self, service: str, rollout: str, before: float, limit: int) -> Due:
        """Predictions assigned before, with something to fold."""
        ...

    def fold(
        self, service: str, rollout: str, number: int, rows: Sequence[Joined], sums: Sequence[Evidence]
    ) -> None:
        """Mark `rows` with their new `folded` and replace this source's evidence by `sums`: guarantee 3."""
        ...

    def expire(self, now: float, limit: int) -> int:
        """Forget at most so many old predictions and labels of all services; how many there were."""
        ...

    def held(self, service: str) -> Held:
        """What has come in."""
        ...


def request_key(service: str, request_id: str) -> bytes:
    """The key of a request id in one service: a BLAKE2b digest, so that ids themselves are not kept."""
    return request_keys(service)(request_id)


def request_keys(service: str) -> Callable[[str], bytes]:
    """`request_key` of one service: beginning with a digest that has its name takes half the time."""
    begun = blake2b(digest_size=KEY_BYTES, key=service.encode()[:64])

    def key(request_id: str) -> bytes:
        digest = begun.copy()
        digest.update(request_id.encode("utf-8", "replace"))
        return digest.digest()

    return key


def fitting(sizes: Iterable[int], room: int) -> int:
    """How many of some bodies, in order, there is room for, in bytes."""
    return sum(1 for held in accumulate(sizes) if held <= room)


_prediction = msgspec.msgpack.Decoder(Prediction)
_label = msgspec.msgpack.Decoder(Label)
_encode = msgspec.msgpack.Encoder().encode


def encode_prediction(prediction: Prediction) -> bytes:
    """The wire form. Raises WireError for text that no UTF-8 can hold."""
    try:
        return _encode(prediction)
    except UnicodeEncodeError as problem:
        raise WireError(f"a prediction cannot be written: {problem.reason}") from problem


def encode_label(label: Label) -> bytes:
    """The wire form."""
    return _encode(label)


def decode_prediction(data: bytes) -> Prediction:
    """The record of a wire form. Raises WireError."""
    try:
        return _prediction.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise WireError(f"a stored prediction cannot be read: {problem}") from problem


def decode_label(data: bytes) -> Label:
    """The record of a wire form. Raises WireError."""
    try:
        return _label.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise WireError(f"a stored label cannot be read: {problem}") from problem


def settle(stored: Label, given: Label) -> tuple[Label, str]:
    """What stands of a label that was there and one that comes, and if it is new, the same or another."""
    values, groups = stored.values or given.values, stored.groups or given.groups
    if (given.values and given.values != values) or (given.groups and given.groups != groups):
        return stored, "conflict"
    merged = Label(stored.request, values, groups)
    return merged, "duplicate" if merged == stored else "new"
