"""Bodies as they are kept: large ones compressed, since memory and network are what such a store costs."""

from __future__ import annotations

import zlib
from typing import Final

from ...errors import WireError

_COMPRESSED: Final = 0x78  # first byte of a zlib stream; none of our wire forms begins with it
_WORTH_IT: Final = 1024  # bytes
_LARGEST: Final = 256 * 2**20  # bytes of a body; evidence is bounded at a few MiB


def packed(body: bytes) -> bytes:
    """The body, compressed where that is worth it."""
    return zlib.compress(body, 1) if len(body) >= _WORTH_IT else body


def unpacked(body: bytes) -> bytes:
    """What was packed. Raises WireError."""
    if not body or body[0] != _COMPRESSED:
        return body
    inflating = zlib.decompressobj()
    try:
        whole = inflating.decompress(body, _LARGEST)
    except zlib.error as problem:
        raise WireError(f"a stored body cannot be decompressed: {problem}") from problem
    if not inflating.eof:
        raise WireError("a stored body is cut off, or larger than any of ours")
    return whole
