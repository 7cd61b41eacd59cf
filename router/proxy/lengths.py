"""Header fields of a request whose body is now whole: it has a length, and nobody waits for a 100."""

from __future__ import annotations

from typing import Final

_EXPECT: Final = frozenset((b"expect",))
_FRAMING: Final = frozenset((b"expect", b"content-length", b"transfer-encoding", b"trailer"))


def with_length(fields: bytes, size: int | None) -> bytes:
    """`fields` without Expect, and with `size` as Content-Length; None: the framing stays as it is."""
    unwanted = _EXPECT if size is None else _FRAMING
    kept = b"\r\n".join(
        line for line in fields.split(b"\r\n") if line.partition(b":")[0].lower() not in unwanted
    )
    return kept if size is None else b"%bcontent-length: %d\r\n" % (kept, size)
