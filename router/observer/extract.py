"""From the bytes of an exchange to predictions and slice groups, by what the plan says.

Everything here takes bodies from strangers: whatever they hold, the answer is a list with None where
an instance has no usable prediction, and it comes in time proportional to the (bounded) bytes.
How a protocol's bodies are read is its Format, chosen here and compiled once for a plan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from ...store.measurement import Extraction, SlicePlan, group_names
from ..paths import kind_of
from .asides import AsideReader
from .formats import BentoML, Feature, Format, Json, KServe, TensorflowServing, TorchServe
from .openai import OpenAi
from .tables import Mlflow, SageMaker
from .tensors import OpenInference
from .unscored import ALL_READERS
from .values import Prediction, label_of, only_item

# A batch beyond it fits no default capture limit; holding its parts would cost more than it tells.
MAX_INSTANCES: Final = 65_536

__all__ = ["FORMATS", "MAX_INSTANCES", "Compile", "Extractor", "Grouping", "Groups", "Prediction"]

Groups = tuple[int | list[int], ...]  # per slice: the group of every instance, or one for all

_INFINITE: Final = float("inf")


class Compile(Protocol):
    """Makes a Format of a path ('': the protocol's own) and of whether predictions are numbers."""

    def __call__(self, path: str, *, number: bool) -> Format:
        """The format of one plan."""
        ...


FORMATS: Final[dict[str, Compile]] = {
    "tensorflow-serving": TensorflowServing,
    "kserve-v1": KServe,
    "open-inference": OpenInference,
    "mlflow": Mlflow,
    "torchserve": TorchServe,
    "bentoml": BentoML,
    "sagemaker": SageMaker,
    "openai": OpenAi,
    "json": Json,
}


class Extractor:
    """Compiled for one plan. `slices`: those of the extraction whose names are in `wanted`, in order."""

    def __init__(self, extraction: Extraction, protocol: str, wanted: frozenset[str] = frozenset()) -> None:
        compile_format = FORMATS.get(protocol, Json)
        self._format = compile_format(extraction.path, number=extraction.type == "number")
        # Where the protocol tells more than predictions.
        self.replies = self._format if isinstance(self._format, OpenAi) else None
        # What answers tell beside predictions, read once more from their bytes where a plan asks for it.
        self.asides = AsideReader(extraction, self._format)
        self._read: Callable[[Any], Prediction] = ALL_READERS[extraction.type]
        self.slices = tuple(planned for planned in extraction.slices if planned.name in wanted)
        read = {
            part.path: self._format.feature(part.path) for planned in self.slices for part in _parts(planned)
        }
        self._groups: tuple[tuple[tuple[tuple[Feature, Grouping], ...], Crossing], ...] = tuple(
            (
                tuple(
                    (read[part.path], grouping)
                    for part, grouping in zip(_parts(planned), crossing.parts, strict=True)
                ),
                crossing,
            )
            for planned, crossing in ((planned, Crossing(planned)) for planned in self.slices)
        )
        self.crossings = tuple(crossing for _, crossing in self._groups)
        self.names = tuple(crossing.names for crossing in self.crossings)

    def predictions(self, response: bytes, encoding: str, head: int = -1) -> list[Prediction]:
        """Every instance's prediction, None where it has none that is usable; [] where there are none.

        `head`: bytes of JSON before binary tensors, see facts.Body.
        """
        return self.read(self._format.predictions(response, encoding, head))

    def read(self, found: list[Any] | None) -> list[Prediction]:
        """The predictions in what stands where predictions stand."""
        if found is None or len(found) > MAX_INSTANCES:
            return []
        read = self._read
        return [read(value) for value in found]

    def groups(self, request: bytes, encoding: str, head: int = -1) -> tuple[int, Groups]:
        """How many instances the request has (0: its slices do not say), and each slice's groups.

        A slice that cannot be found is in `other`.
        """
        if not self._groups:
            return 0, ()
        document = self._format.request(request, encoding, head)
        instances = 0
        groups: list[int | list[int]] = []
        for parts, crossing in self._groups:
            columns = [_column(document, feature, grouping) for feature, grouping in parts]
            column = columns[0] if len(columns) == 1 else crossing.column(columns)
            instances = max(instances, *(len(each) for each in columns if isinstance(each, list)), 0)
            groups.append(column)
        return instances, tuple(groups)

    def exchange(
        self,
        request: bytes,
        request_encoding: str,
        response: bytes,
        response_encoding: str,
        request_head: int = -1,
        response_head: int = -1,
    ) -> tuple[list[Prediction], Groups]:
        """Predictions and groups, matched by position.

        An instance that the request holds and the reply does not answer has no usable prediction; one
        that only the reply holds is in `other`.
        """
        values = self.predictions(response, response_encoding, response_head) if response else []
        if not self._groups:
            return values, ()
        instances, groups = self.groups(request, request_encoding, request_head)
        return self.matched(values, instances, groups)

    def matched(
        self, values: list[Prediction], instances: int, groups: Groups
    ) -> tuple[list[Prediction], Groups]:
        """Values and groups of equal length (an empty list of values stays empty)."""
        if not instances or not values:
            return values, groups
        if instances == len(values) == 1:
            return values, tuple(map(_only, groups))
        if self._format.every and instances > len(values):
            values = [*values, *[None] * (instances - len(values))]
        count = len(values)
        return values, tuple(
            group if isinstance(group, int) else _sized(group, count, crossing.other)
            for group, crossing in zip(groups, self.crossings, strict=True)
        )


def _parts(planned: SlicePlan) -> tuple[SlicePlan, ...]:
    """The slices that have a path: the slice itself, or those it crosses."""
    return planned.cross or (planned,)


def _column(document: Any, feature: Feature, grouping: Grouping) -> int | list[int]:
    """The group of every instance, or the one of all."""
    if not feature.every:
        return grouping.of(feature.one(document))
    found = feature.instances(document)
    if not found or len(found) > MAX_INSTANCES:
        return grouping.other
    return [grouping.of(value) for value in found]


def _only(group: int | list[int]) -> int | list[int]:
    return group[0] if isinstance(group, list) and len(group) == 1 else group


def _sized(group: list[int], count: int, other: int) -> int | list[int]:
    fitted = group[:count] + [other] * (count - len(group))
    return fitted[0] if count == 1 else fitted


class Crossing:
    """The group of a slice from the groups of its parts: an index into `names`. Most have one part."""

    def __init__(self, planned: SlicePlan) -> None:
        self.names = group_names(planned)
        self.other = len(self.names) - 1
        self.parts = tuple(map(Grouping, _parts(planned)))

    def of(self, indexes: Sequence[int]) -> int:
        """`other` where any part is."""
        place = 0
        for index, part in zip(indexes, self.parts, strict=True):
            if index == part.other:
                return self.other
            place = place * part.other + index
        return place

    def column(self, columns: Sequence[int | list[int]]) -> int | list[int]:
        """The same of every instance; a part that holds for all of them is repeated.

        Where parts speak of different numbers of instances, those that lack one are in `other`.
        """
        count = max((len(each) for each in columns if isinstance(each, list)), default=0)
        if not count:
            return self.of([each for each in columns if isinstance(each, int)])
        rows = (
            [each] * count if isinstance(each, int) else each + [part.other] * (count - len(each))
            for each, part in zip(columns, self.parts, strict=True)
        )
        return [self.of(indexes) for indexes in zip(*rows, strict=True)]


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
            only = only_item(value)
            return self.other if type(only) is list else self.of(only)
        if self._edges:
            return self._bin(value) if kind is int or kind is float else self.other
        text = label_of(value)
        return self.other if text is None else self._texts.get(text, self.other)

    def _bin(self, value: float) -> int:
        if not value < _INFINITE:
            return self.other
        above = bisect_right(self._edges, value)
        return above - 1 if above else self.other
