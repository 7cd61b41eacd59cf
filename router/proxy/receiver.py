"""Whoever asks for a connection and hears the answer: an exchange, a copy, a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facts import Ending
from .heads import Malformed, ResponseHead

if TYPE_CHECKING:
    from .upstream import Upstream


class Receiver:
    """Who asked: it gets the connection, then the answer in pieces, then `ended` or `failed`, once.

    `waiting`: still wants a connection. `head_only`: it sent HEAD. `wants_payload`: de-chunked pieces
    are collected for it. The default of every method ignores what happened.
    """

    __slots__ = ("head_only", "waiting", "wants_payload")

    head_only: bool
    waiting: bool
    wants_payload: bool

    def connected(self, upstream: Upstream) -> None:
        """A connection is there: send on it, or give it back."""
        raise NotImplementedError

    def interim(self, raw: bytes) -> None:
        """A 1xx response."""

    def switched(self, upstream: Upstream, head: ResponseHead, rest: bytes) -> None:  # noqa: ARG002
        """A 101 came, and `rest` behind it: take the connection (`tunnelled`), or raise Malformed."""
        raise Malformed(502, "the upstream switched protocols unasked")

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """A whole answer with Content-Length arrived at once (nothing else follows)."""
        raise NotImplementedError

    def began(self, head: ResponseHead) -> None:
        """The head of an answer whose body follows."""
        raise NotImplementedError

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """A piece of the body as received; of a chunked body its framing too, `payload` the content.

        `size`: bytes of content in this piece.
        """
        raise NotImplementedError

    def ended(self) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def failed(self, ending: Ending) -> None:
        """There will be no complete answer."""
        raise NotImplementedError

    def refused(self) -> None:
        """Too many wait for a connection already: the version does not keep up, so this is not tried."""
        self.failed(Ending.CONNECT)

    def no_room(self) -> None:
        """This side has no descriptor for a connection: nobody's failure but ours."""
        self.failed(Ending.CONNECT)

    def pause(self) -> None:
        """The connection takes no more for now."""

    def resume(self) -> None:
        """The connection takes more again."""
