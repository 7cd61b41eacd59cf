"""What may leave a body: fields that a service file names, hashes of them, and its shape without content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from ..paths import MISSING
from .formats import Feature

_KEY_BYTES: Final = 64  # blake2b takes no longer key
_LONGEST: Final = 4096  # bytes of one recorded value; longer ones are named, not kept


class AllowList:
    """The named fields of a document, some of them only as keyed hashes. Everything else stays behind."""

    def __init__(
        self, fields: Sequence[str], hashed: Sequence[str], key: bytes, feature: Callable[[str], Feature]
    ) -> None:
        self._fields = tuple((path, feature(path), path in hashed) for path in fields)
        self._key = key[:_KEY_BYTES]

    def of(self, document: Any) -> dict[str, Any]:
        """Path -> value (a list for paths with [*]), of what the document holds."""
        kept: dict[str, Any] = {}
        if document is MISSING:
            return kept
        for path, feature, secret in self._fields:
            value: Any
            if feature.every:
                found = feature.instances(document)
                value = MISSING if found is None else [None if one is MISSING else one for one in found]
            else:
                value = feature.one(document)
            if value is MISSING:
                continue
            kept[path] = self._kept(value, secret=secret)
        return kept

    def _kept(self, value: Any, *, secret: bool) -> Any:
        if secret:
            if isinstance(value, list):
                return [self._hash(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
            return self._hash(value)
        if len(msgspec.json.encode(value)) > _LONGEST:
            return "(longer than is recorded)"
        return value

    def _hash(self, value: Any) -> str:
        """The same for the same value and key; without the key nobody can try values."""
        return "h:" + hashlib.blake2b(msgspec.json.encode(value), key=self._key, digest_size=16).hexdigest()


# Letters and bytes above ASCII become x, digits 0; what gives a body its shape stays: brackets, signs.
_MASK: Final = bytes(
    ord("0") if 48 <= byte <= 57 else ord("x") if byte >= 128 or chr(byte).isalpha() else byte  # noqa: PLR2004
    for byte in range(256)
)


def masked(body: bytes) -> bytes:
    """A body of the same length and shape that says nothing."""
    return body.translate(_MASK)
