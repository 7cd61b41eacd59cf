"""Bodies that are JSON: predictions in an answer, features in a request.

A Format is compiled once for a plan. None of its methods may take longer than linear time in the bytes;
what is not there is MISSING or None, never an exception.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

from ...errors import WireError
from ..paths import MISSING, WHOLE, Accessor, Missing, compile_path, kind_of
from .decode import decoded, read_json
from .values import best_of

_NOTHING: Final = Accessor(((Missing, ""),), None)  # finds nothing in any document
_MAX_PLAIN = 2**20  # characters of an answer that is text and no JSON


class Feature(Protocol):
    """A compiled path into requests. `every`: it has a value for each instance."""

    @property
    def every(self) -> bool:
        """Whether instances have values of their own."""
        ...

    def one(self, document: Any) -> Any:
        """The value for the whole request, or MISSING."""
        ...

    def instances(self, document: Any) -> list[Any] | None:
        """The values of all instances, MISSING where one has none; None where there are no instances."""
        ...


class Format(Protocol):
    """How the bodies of one protocol are read. `every`: there is a prediction for each instance.

    `head`: bytes of JSON before binary tensors, -1 where no header told (see facts.Body).
    """

    every: bool

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:
        """What stands where predictions stand, one for each instance; None where nothing stands there."""
        ...

    def request(self, body: bytes, encoding: str, head: int) -> Any:
        """The document that features are read from, or MISSING."""
        ...

    def feature(self, path: str) -> Feature:
        """The feature of a slice's path."""
        ...


def compiled(path: str) -> Accessor:
    """The path's accessor; of one that cannot be read, an accessor that finds nothing.

    Then every prediction is missing, which makes gates `error`: nothing passes because a path is wrong.
    """
    try:
        return compile_path(path)
    except WireError:
        return _NOTHING


class Json:
    """Any JSON: predictions stand where the path says. `number`: predictions are numbers."""

    def __init__(self, path: str, *, number: bool) -> None:
        self._path = compiled(path)
        self._number = number
        self.every = self._path.every

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:  # noqa: ARG002
        """See Format."""
        document = read_json(body, encoding)
        return None if document is MISSING else self.found(document)

    def found(self, document: Any) -> list[Any] | None:
        """The predictions in an answer's document."""
        return self._path.instances(document)

    def request(self, body: bytes, encoding: str, head: int) -> Any:  # noqa: ARG002
        """See Format."""
        return read_json(body, encoding)

    def feature(self, path: str) -> Feature:
        """See Format."""
        return compiled(path)


# Where predictions stand without a path, in the usual shape of the protocols that the quick way knows.
USUAL_PATHS: Final = {"json": "", "kserve-v1": "predictions[*]", "tensorflow-serving": "predictions[*]"}


class KServe(Json):
    """KServe v1: `predictions`, unless a path says otherwise."""

    def __init__(self, path: str, *, number: bool) -> None:
        super().__init__(path or USUAL_PATHS["kserve-v1"], number=number)


class TensorflowServing(Json):
    """TF Serving: `predictions` (row format), `outputs` (columnar) or `results` (classify, regress)."""

    def __init__(self, path: str, *, number: bool) -> None:
        super().__init__(path, number=number)
        self._anywhere = not path
        self._classifies = self._anywhere or path.startswith("results")
        self.every = self.every or self._anywhere

    def found(self, document: Any) -> list[Any] | None:
        """See Json. Of a classification, the best class or its score."""
        values = _row_or_column(document) if self._anywhere else super().found(document)
        if values is None or not self._classifies:
            return values
        return [best_of(value, number=self._number) if type(value) is list else value for value in values]


def _row_or_column(document: Any) -> list[Any] | None:
    if kind_of(document) is not dict:
        return None
    for root in ("predictions", "outputs", "results"):
        found = document.get(root)
        if kind_of(found) is dict and len(found) == 1:  # a single named output
            found = next(iter(found.values()))
        if kind_of(found) is list:
            return cast("list[Any]", found)
    return None


class TorchServe(Json):
    """TorchServe: what its handler answers. `$` of an image or text classifier is its best class or score."""

    def found(self, document: Any) -> list[Any] | None:
        """See Json."""
        values = super().found(document)
        if values is None:
            return None
        return [best_of(value, number=self._number) if type(value) is dict else value for value in values]

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:  # noqa: ARG002
        """See Format. A handler may answer with plain text."""
        document = json_or_text(body, encoding)
        return None if document is MISSING else self.found(document)


class BentoML(Json):
    """BentoML: the method's return value, unwrapped. Without a path each element of a list, or all of it."""

    def __init__(self, path: str, *, number: bool) -> None:
        super().__init__(path or WHOLE, number=number)
        self._anywhere = not path
        self.every = self.every or self._anywhere

    def found(self, document: Any) -> list[Any] | None:
        """See Json."""
        if self._anywhere:
            if kind_of(document) is list:
                return [only_value(value) for value in document]
            return [only_value(document)]
        return super().found(document)

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:  # noqa: ARG002
        """See Format. A method that returns text answers with plain text."""
        document = json_or_text(body, encoding)
        return None if document is MISSING else self.found(document)


def only_value(value: Any) -> Any:
    """What an object with a single key holds; any other value as it is."""
    if kind_of(value) is dict and len(value) == 1:
        return next(iter(value.values()))
    return value


def json_or_text(body: bytes, encoding: str) -> Any:
    """The JSON value of a body, or its text where it is plain text; MISSING for broken JSON and pages."""
    document = read_json(body, encoding)
    if document is not MISSING:
        return document
    plain = decoded(body, encoding) if encoding else body
    if plain is None or len(plain) > _MAX_PLAIN:
        return MISSING
    try:
        text = plain.decode().strip()
    except UnicodeDecodeError:
        return MISSING
    # A cut answer or a page of an error in between is no prediction.
    return MISSING if not text or text[0] in '{["<' or not text.isprintable() else text
