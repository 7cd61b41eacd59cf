"""What is told on about the way of a message: X-Forwarded-*, Forwarded (RFC 7239), Via (RFC 9110 §7.6.3).

Only services that ask for it come here; everybody else's header fields stay the bytes they were.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

if TYPE_CHECKING:
    import asyncio

    from .heads import RequestHead

PSEUDONYM: Final = b"accede"  # RFC 9110 §7.6.3 lets a proxy keep its own name to itself
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Peer(NamedTuple):
    """Who is at the other end of a client's connection. `node`: as RFC 7239 §6 writes it."""

    address: bytes
    node: bytes
    scheme: bytes


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a connection; `unknown` where it has no address (a Unix socket)."""
    name: object = transport.get_extra_info("peername")
    scheme = b"http" if transport.get_extra_info("ssl_object") is None else b"https"
    if not isinstance(name, tuple) or not name:
        return Peer(b"unknown", b"unknown", scheme)
    host: object = cast("tuple[object, ...]", name)[0]
    address = str(host).partition("%")[0].encode()  # a zone means nothing elsewhere
    return Peer(address, b'"[%b]"' % address if b":" in address else address, scheme)


class Additions:
    """What one service adds to requests: `client` as its file says, and Via."""

    __slots__ = ("_client", "_via")

    def __init__(self, client: Literal["none", "x-forwarded", "forwarded"], *, via: bool) -> None:
        self._client = client
        self._via = via

    def to_request(self, head: RequestHead, peer: Peer) -> bytes:
        """The fields of `head` with the additions behind them."""
        fields = head.fields
        if self._client == "x-forwarded":
            fields = _x_forwarded(fields, head.host, peer)
        elif self._client == "forwarded":
            host = b";host=" + _quoted(head.host) if head.host else b""
            fields = _appended(fields, b"forwarded", b"for=%b%b;proto=%b" % (peer.node, host, peer.scheme))
        if self._via:
            fields = _appended(fields, b"via", b"1.%d %b" % (head.minor, PSEUDONYM))
        return fields


def via_line(*, minor: bool) -> bytes:
    """The Via line of an answer that came as HTTP/1.`minor`."""
    return b"via: 1.%d %b\r\n" % (minor, PSEUDONYM)


def _x_forwarded(fields: bytes, host: bytes, peer: Peer) -> bytes:
    known = fields.lower()
    fields = _appended(fields, b"x-forwarded-for", peer.address)
    if host and not _has(known, b"x-forwarded-host"):
        fields += b"x-forwarded-host: %b\r\n" % host
    if not _has(known, b"x-forwarded-proto"):
        fields += b"x-forwarded-proto: %b\r\n" % peer.scheme
    return fields


def _has(lower: bytes, name: bytes) -> bool:
    return lower.startswith(name + b":") or b"\r\n" + name + b":" in lower


def _appended(fields: bytes, name: bytes, value: bytes) -> bytes:
    """`value` as the last element of the list in field `name`, in one line: readers often know only one."""
    if not _has(fields.lower(), name):
        return b"%b%b: %b\r\n" % (fields, name, value)
    others: list[bytes] = []
    before: list[bytes] = []
    for line in fields.split(b"\r\n")[:-1]:
        known, _, given = line.partition(b":")
        if known.lower() != name:
            others.append(line + b"\r\n")
        elif given.strip(b" \t"):
            before.append(given.strip(b" \t"))
    return b"%b%b: %b\r\n" % (b"".join(others), name, b", ".join((*before, value)))


def _quoted(host: bytes) -> bytes:
    """A Host as a value of RFC 7239: no valid Host has a quote or a backslash."""
    return host if _TOKEN.fullmatch(host) else b'"%b"' % host
