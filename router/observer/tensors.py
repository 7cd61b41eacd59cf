"""Open Inference (v2): tensors by name, as JSON or as bytes behind the JSON.

A tensor is row-major `data` with a `shape` whose first dimension is the batch; `data` may also be nested
(Open Inference Protocol, "Tensor Data"). With Triton's binary extension `parameters.binary_data_size` says
how many bytes behind the JSON are the tensor's, in the order of the tensors, little-endian; elements of
BYTES have a 4-byte length before them.

Paths: `outputs.NAME[*]` or `outputs[0][*]` is every instance, further indices go into one:
`outputs.probabilities[*][1]`. In requests the same with `inputs`, and `NAME` alone is `inputs.NAME[*]`.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, Final, NamedTuple, cast

from ...errors import WireError
from ..paths import EVERY, MISSING, Token, kind_of, tokens_of
from .decode import decoded, read_json
from .formats import Feature, compiled
from .streams import events, is_stream

_ROOTS: Final = ("inputs", "outputs")
# Top-level keys of a request besides its tensors, and what Triton's generate takes.
_BESIDES: Final = ("inputs", "parameters", "id", "text_input", "outputs")
_MAX_DIMENSIONS = 16
_MAX_SIZE = 2**40  # of one dimension; longer numbers would cost time to multiply
# struct's letter and the bytes of one element, for all datatypes of a fixed size.
_ELEMENTS: Final = {
    "BOOL": ("?", 1), "INT8": ("b", 1), "INT16": ("h", 2), "INT32": ("i", 4), "INT64": ("q", 8),
    "UINT8": ("B", 1), "UINT16": ("H", 2), "UINT32": ("I", 4), "UINT64": ("Q", 8),
    "FP16": ("e", 2), "FP32": ("f", 4), "FP64": ("d", 8),
}  # fmt: skip
_LENGTH = 4  # bytes before an element of BYTES


class Tensors(NamedTuple):
    """One body: its JSON and the bytes behind it (None: no header told where they begin)."""

    document: Any
    binary: bytes | None


class TensorPath:
    """A path to a tensor's elements. `every`: one value for each instance."""

    def __init__(self, section: str, name: str | int, rest: tuple[Token, ...]) -> None:
        self._section = section
        self._name = name
        self.every = bool(rest) and rest[0] is EVERY
        self._within = tuple(step for step in rest if isinstance(step, int))

    def one(self, document: Any) -> Any:
        """Without [*]: the element at the indices; all elements where there are none."""
        tensor = _tensor(document, self._section, self._name)
        if tensor is None:
            return MISSING
        if not self._within:
            return tensor[0]
        values = _rows(tensor, self._within[1:])
        at = self._within[0]
        return values[at] if values is not None and at < len(values) else MISSING

    def instances(self, document: Any) -> list[Any] | None:
        """One value for each instance; None where the tensor is missing or contradicts its shape."""
        if not self.every:
            found = self.one(document)
            return None if found is MISSING else [found]
        tensor = _tensor(document, self._section, self._name)
        return None if tensor is None else _rows(tensor, self._within)


class BesidePath:
    """A path to what stands beside the tensors: `parameters.sequence_id`, `text_output`."""

    def __init__(self, path: str) -> None:
        self._path = compiled(path)
        self.every = self._path.every

    def one(self, document: Any) -> Any:
        """As Accessor.one."""
        return self._path.one(document.document) if isinstance(document, Tensors) else MISSING

    def instances(self, document: Any) -> list[Any] | None:
        """As Accessor.instances."""
        return self._path.instances(document.document) if isinstance(document, Tensors) else None


class OpenInference:
    """The bodies of `infer` and `generate`. Without a path: the first output, or `text_output`."""

    def __init__(self, path: str, *, number: bool) -> None:
        self._anywhere = not path
        self._path = _feature(path or "outputs[0][*]")
        self._text = BesidePath("text_output")
        self._joins = not number and (self._anywhere or path == "text_output")
        self.every = self._path.every

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:
        """See Format."""
        read = self.request(body, encoding, head)
        if read is MISSING:
            return self._streamed(decoded(body, encoding) if encoding else body)
        return self._found(read)

    def _found(self, read: Tensors) -> list[Any] | None:
        found = self._path.instances(read)
        if found is None and self._anywhere:
            found = self._text.instances(read)
        return found

    def _streamed(self, body: bytes | None) -> list[Any] | None:
        """`generate_stream`: events of JSON. One that tells an error, under 200, leaves no prediction."""
        if body is None or not is_stream(body):
            return None
        last: list[Any] | None = None
        texts: list[str] = []
        for event in events(body):
            document = read_json(event.data, "")
            if kind_of(document) is not dict or "error" in document:
                return None
            last = self._found(Tensors(document, None))
            if self._joins and last is not None and len(last) == 1 and kind_of(last[0]) is str:
                texts.append(last[0])
        return ["".join(texts)] if texts else last

    def request(self, body: bytes, encoding: str, head: int) -> Any:
        """See Format. The header counts bytes without content coding."""
        if encoding:
            plain = decoded(body, encoding)
            if plain is None:
                return MISSING
            body = plain
        binary: bytes | None = None
        if head >= 0:
            if head > len(body):
                return MISSING
            body, binary = body[:head], body[head:]
        document = read_json(body, "")
        return MISSING if document is MISSING else Tensors(document, binary)

    def feature(self, path: str) -> Feature:
        """See Format."""
        return _feature(path)


def _feature(path: str) -> Feature:
    try:
        tokens = tokens_of(path)
    except WireError:
        return BesidePath("")
    root = tokens[0] if tokens else None
    if root in _ROOTS and len(tokens) > 1:
        name, rest = tokens[1], tokens[2:]
        plain = [step for step in rest if isinstance(step, str)]
        if name is not None and not plain and EVERY not in rest[1:]:
            return TensorPath(str(root), name, tuple(rest))
        return BesidePath(path)  # such as outputs[0].data[0]
    if isinstance(root, str) and root not in _BESIDES and len(tokens) == 1:
        return TensorPath("inputs", root, (EVERY,))
    return BesidePath(path)


def _tensor(body: Any, section: str, name: str | int) -> tuple[list[Any], list[int] | None] | None:
    """Elements and shape (None: none is told) of a tensor, or None where it cannot be had."""
    if not isinstance(body, Tensors) or kind_of(body.document) is not dict:
        return None
    tensors = body.document.get(section)
    if kind_of(tensors) is not list:
        return None
    offset = 0
    for index, tensor in enumerate(tensors):
        if kind_of(tensor) is not dict:
            return None
        size = _binary_size(tensor)
        if (index if type(name) is int else tensor.get("name")) == name:
            shape = _shape(tensor.get("shape"))
            if shape is None:
                return None
            if size is None:
                data = tensor.get("data")
                return (cast("list[Any]", data), shape) if kind_of(data) is list else None
            elements = _elements(tensor.get("datatype"), body.binary, offset, size)
            return None if elements is None else (elements, shape)
        offset += size or 0
    return None


def _binary_size(tensor: dict[str, Any]) -> int | None:
    parameters = tensor.get("parameters")
    if kind_of(parameters) is not dict:
        return None
    size = cast("dict[str, Any]", parameters).get("binary_data_size")
    return size if type(size) is int and 0 <= size <= _MAX_SIZE else None


def _shape(value: Any) -> list[int] | None:
    """The dimensions; [-1] where there are none told, so that data speaks for itself. None: nonsense."""
    if value is None:
        return [-1]
    if kind_of(value) is not list or len(value) > _MAX_DIMENSIONS:
        return None
    sizes = cast("list[Any]", value)
    return sizes if all(type(size) is int and 0 <= size <= _MAX_SIZE for size in sizes) else None


def _rows(tensor: tuple[list[Any], list[int] | None], within: tuple[int, ...]) -> list[Any] | None:
    """Of every instance the element (or the elements, row-major) at indices `within`."""
    data, shape = tensor
    if not shape or shape == [-1]:  # a scalar, or a list that has no shape
        return data if not within else None
    count, inner = shape[0], shape[1:]
    if inner and len(data) == count and data and type(data[0]) is list:
        return [_at(row, within) for row in data] if within else data
    stride = prod(inner)
    if len(data) != count * stride or len(within) > len(inner):
        return None
    if not data:
        return []
    offset = 0
    for at, (index, size) in enumerate(zip(within, inner, strict=False)):
        if index >= size:
            return None
        offset += index * prod(inner[at + 1 :])
    width = prod(inner[len(within) :])
    if width == 1:
        return data[offset::stride]
    return [data[start : start + width] for start in range(offset, len(data), stride)]


def _at(row: Any, within: tuple[int, ...]) -> Any:
    for index in within:
        if kind_of(row) is not list or index >= len(row):
            return MISSING
        row = row[index]
    return row


def _elements(datatype: Any, binary: bytes | None, offset: int, size: int) -> list[Any] | None:
    """The elements of a binary tensor; None where its bytes are missing or do not fit its datatype."""
    if binary is None or offset + size > len(binary):
        return None
    part = binary[offset : offset + size]
    if datatype == "BYTES":
        return _texts(part)
    if datatype == "BF16":  # the upper half of an FP32
        datatype, part = "FP32", b"".join(b"\0\0" + part[at : at + 2] for at in range(0, len(part), 2))
    element = _ELEMENTS.get(datatype) if kind_of(datatype) is str else None
    if element is None or len(part) % element[1]:
        return None
    return list(struct.unpack(f"<{len(part) // element[1]}{element[0]}", part))


def _texts(part: bytes) -> list[Any] | None:
    texts: list[Any] = []
    at = 0
    while at < len(part):
        begin = at + _LENGTH
        at = begin + int.from_bytes(part[at:begin], "little")
        if begin > len(part) or at > len(part):
            return None
        try:
            texts.append(part[begin:at].decode())
        except UnicodeDecodeError:
            texts.append(MISSING)
    return texts
