"""From the bytes of an exchange to predictions and slice groups, by what the plan says.

Everything here takes bodies from strangers: whatever they hold, the answer is a list with None where
an instance has no usable prediction, and it comes in time proportional to the (bounded) bytes.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, cast

from ...errors import WireError
from ...store.measurement import Extraction, SlicePlan, group_names
from .decode import read_json
from .paths import MISSING, Accessor, Missing, compile_path, kind_of

# A batch beyond it fits no default capture limit; holding its parts would cost more than it tells.
MAX_INSTANCES: Final = 65_536
_MAX_LABEL = 256  # characters; longer text is no class of a classifier
_MAX_NESTING = 4  # of one-element lists around a prediction

# Where a protocol puts the predictions of all instances, for a plan that names no path.
_DEFAULT_PATHS = {"tensorflow-serving": "predictions[*]", "kserve-v1": "predictions[*]"}

Prediction = float | str | None
Groups = tuple[int | list[int], ...]  # per slice: the group of every instance, or one for all


class Extractor:
    """Compiled for one plan. `slices`: those of the extraction whose names are in `wanted`, in order."""

    def __init__(self, extraction: Extraction, protocol: str, wanted: frozenset[str] = frozenset()) -> None:
        self._path = _compiled(extraction.path or _DEFAULT_PATHS.get(protocol, ""))
        self._read = _number if extraction.type == "number" else _label
        self.slices = tuple(planned for planned in extraction.slices if planned.name in wanted)
        self._groups = tuple((_compiled(planned.path), Grouping(planned)) for planned in self.slices)
        self.names = tuple(grouping.names for _, grouping in self._groups)

    def predictions(self, response: bytes, encoding: str) -> list[Prediction]:
        """Every instance's prediction, None where it has none that is usable; [] where there are none."""
        document = read_json(response, encoding)
        if document is MISSING:
            return []
        found = self._path.instances(document)
        if found is None or len(found) > MAX_INSTANCES:
            return []
        read = self._read
        return [read(value) for value in found]

    def groups(self, request: bytes, encoding: str) -> tuple[int, Groups]:
        """How many instances the request has (0: its slices do not say), and each slice's groups.

        A slice that cannot be found is in `other`.
        """
        if not self._groups:
            return 0, ()
        document = read_json(request, encoding)
        instances = 0
        groups: list[int | list[int]] = []
        for path, grouping in self._groups:
            if not path.every:
                groups.append(grouping.of(path.one(document)))
                continue
            found = path.instances(document)
            if found is None or len(found) > MAX_INSTANCES:
                groups.append(grouping.other)
                continue
            instances = max(instances, len(found))
            groups.append([grouping.of(value) for value in found])
        return instances, tuple(groups)

    def exchange(
        self, request: bytes, request_encoding: str, response: bytes, response_encoding: str
    ) -> tuple[list[Prediction], Groups]:
        """Predictions and groups, matched by position.

        An instance that the request holds and the reply does not answer has no usable prediction; one
        that only the reply holds is in `other`.
        """
        values = self.predictions(response, response_encoding) if response else []
        if not self._groups:
            return values, ()
        instances, groups = self.groups(request, request_encoding)
        return self.matched(values, instances, groups)

    def matched(
        self, values: list[Prediction], instances: int, groups: Groups
    ) -> tuple[list[Prediction], Groups]:
        """Values and groups of equal length (an empty list of values stays empty)."""
        if not instances or not values:
            return values, groups
        if instances == len(values) == 1:
            return values, tuple(map(_only, groups))
        if self._path.every and instances > len(values):
            values = [*values, *[None] * (instances - len(values))]
        count = len(values)
        return values, tuple(
            group if isinstance(group, int) else _sized(group, count, grouping.other)
            for group, (_, grouping) in zip(groups, self._groups, strict=True)
        )


def _compiled(path: str) -> Accessor:
    """The path's accessor; of one that cannot be read, an accessor that finds nothing.

    Then every prediction is missing, which makes gates `error`: nothing passes because a path is wrong.
    """
    try:
        return compile_path(path)
    except WireError:
        return Accessor(((Missing, ""),), None)


def _only(group: int | list[int]) -> int | list[int]:
    return group[0] if isinstance(group, list) and len(group) == 1 else group


def _sized(group: list[int], count: int, other: int) -> int | list[int]:
    fitted = group[:count] + [other] * (count - len(group))
    return fitted[0] if count == 1 else fitted


class Grouping:
    """Which group a value of a request falls into: an index into `names`."""

    def __init__(self, planned: SlicePlan) -> None:
        self.names = group_names(planned)
        self.other = len(self.names) - 1
        self._texts = {value: index for index, value in enumerate(planned.values)}
        self._edges = planned.bins

    def of(self, value: Any) -> int:
        """The group of any JSON value; what is neither listed nor within the bins is `other`."""
        kind = kind_of(value)
        if kind is str:
            return self._texts.get(value, self.other)
        if kind is list:  # protocols wrap scalars: {"sex": ["female"]}
            only = _only_item(value)
            return self.other if type(only) is list else self.of(only)
        if self._edges:
            return self._bin(value) if kind is int or kind is float else self.other
        text = _label(value)
        return self.other if text is None else self._texts.get(text, self.other)

    def _bin(self, value: float) -> int:
        if not value < float("inf"):
            return self.other
        at = self.other
        for index, edge in enumerate(self._edges):
            if value < edge:
                break
            at = index
        return at


def _only_item(value: Any) -> Any:
    """What is in a list of one; None, which is no prediction, of any other list."""
    items = cast("list[Any]", value)
    return items[0] if len(items) == 1 else None


def _number(value: Any) -> float | None:
    """A finite number, also inside one-element lists."""
    for _ in range(_MAX_NESTING):
        kind = kind_of(value)
        if kind is float:
            return value if isfinite(value) else None
        if kind is int:
            try:
                return float(value)
            except OverflowError:
                return None
        if kind is not list:
            return None
        value = _only_item(value)
    return None


def _label(value: Any) -> str | None:
    """A class as text: numbers and booleans as JSON writes them, whole numbers without a fraction."""
    for _ in range(_MAX_NESTING):
        kind = kind_of(value)
        if kind is str:
            return value if len(value) <= _MAX_LABEL and _encodable(value) else None
        if kind is bool:
            return "true" if value else "false"
        if kind is float:
            if not isfinite(value):
                return None
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
        if kind is int:
            return str(value) if value.bit_length() <= _MAX_LABEL else None
        if kind is not list:
            return None
        value = _only_item(value)
    return None


def _encodable(text: str) -> bool:
    """False for lone surrogates, which no wire form can hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
