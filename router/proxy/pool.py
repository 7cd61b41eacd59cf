"""Connections to one address: idle ones to reuse, new ones as requests ask for them.

A pool outlives route tables and is drained when none names its address any more. Mirrors have pools of their
own, so copies never take a connection from clients. Nothing done per request grows with what is open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from ..facts import Ending
from .connecting import Address, connect
from .descriptors import Descriptors
from .ejection import Health
from .receiver import Receiver
from .upstream import Upstream
from .upstream_tls import ClientTls

_CLIENT_LIMIT: Final = 1024  # connections of one worker to one address; more requests wait (Envoy's default)
_WAITING: Final = 1024  # requests that may wait for one; the next is refused at once (Envoy's default)
_KEPT_IDLE: Final = 256
_IDLE_FOR: Final = 4.0  # seconds; below the 5 s after which the common Python servers close
_REFUSED_FOR: Final = 0.1  # seconds for which a mirror's address that refused is not tried again
_FEW_DEAD: Final = 16  # closed connections among the idle that are not worth removing yet
_CLOSING: Final = 0.005  # seconds: some rounds of the loop, until what was dropped is closed
_TOLD_EVERY: Final = 60.0  # seconds between two lines about one address: it fails for every request


class Source(Protocol):
    """Where connections to a version come from: the pool of its one address, or a balancer over several."""

    def take(self) -> Upstream | None:
        """An idle connection, or None: then `ask` for one."""

    def ask(self, receiver: Receiver) -> None:
        """Call one of `receiver.connected`, `failed` and `refused` later, unless it leaves before."""

    def leave(self, receiver: Receiver) -> None:
        """`receiver`, which asked, wants no connection any more."""


class Pool:
    """The connections of one worker to `address`. `at_most` 0: client traffic; else a mirror's bound.

    `health` counts failures where the address is one of several, None where it is alone. `serves` names
    the version for logs, `tell` takes a line of them.
    """

    __slots__ = (
        "_attempts", "_dead", "_descriptors", "_idle", "_limit", "_mirror", "_refused_at", "_retired",
        "_tasks", "_tell", "_timeout", "_told_at", "_total", "_waiting", "address", "health", "serves", "tls",
    )  # fmt: skip

    def __init__(
        self, address: Address, at_most: int, timeout: float, tls: ClientTls | None = None,
        health: Health | None = None, serves: str = "", tell: Callable[[str], None] | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:  # fmt: skip
        self.address = address
        self._descriptors = descriptors
        self.health = health
        self.serves = serves
        self.tls = tls
        self._tell = tell
        self._idle: list[Upstream] = []  # used last at the end; closed ones stay until met, `_dead` of them
        self._dead = 0
        self._limit = at_most or _CLIENT_LIMIT
        self._mirror = at_most > 0
        self._timeout = timeout
        self._waiting: OrderedDict[Receiver, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attempts = 0  # connections being made
        self._total = 0  # connections made or being made
        self._refused_at = self._told_at = float("-inf")
        self._retired = False

    @property
    def busy(self) -> bool:
        """Whether anything is connected, connecting or waiting."""
        return self._total > 0 or bool(self._waiting)

    @property
    def idle(self) -> int:
        """Connections that a request could have at once."""
        return len(self._idle) - self._dead

    @property
    def connections(self) -> int:
        """Connections made, idle ones among them."""
        return self._total - self._attempts

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting)

    @property
    def load(self) -> int:
        """Requests that are open here: on a connection, or waiting for one."""
        return self._total - self._attempts - len(self._idle) + self._dead + len(self._waiting)

    def take(self) -> Upstream | None:
        """The connection used last, if one is idle."""
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if not upstream.closed and not upstream.stirred(0):
                return upstream
            self._bury(upstream)
        return None

    def ask(self, receiver: Receiver) -> None:
        """Part of Source. First come, first served."""
        if self._mirror and monotonic() - self._refused_at < _REFUSED_FOR:
            receiver.failed(Ending.CONNECT)
        elif len(self._waiting) >= _WAITING:
            # Not from within the call: whoever asks is not done with itself yet.
            asyncio.get_running_loop().call_soon(_refuse, receiver)
        elif self._mirror and self._descriptors is not None and self._descriptors.full:
            asyncio.get_running_loop().call_soon(_no_room, receiver)
        else:
            self._waiting[receiver] = None
            self._attempt()

    def leave(self, receiver: Receiver) -> None:
        """Part of Source: what `receiver` holds must not wait on."""
        self._waiting.pop(receiver, None)

    def give(self, upstream: Upstream) -> None:
        """Take a connection whose answer is complete: the next in line gets it, or it idles."""
        # What has stirred after an answer lies idle until the loop reads it, and closes it.
        fit = self._waiting and not (upstream.uses and upstream.stirred(0))
        receiver = self._next() if fit else None
        if receiver is not None:
            receiver.connected(upstream)
        elif self._retired or len(self._idle) - self._dead >= _KEPT_IDLE:
            upstream.drop()
        else:
            upstream.idle_since = monotonic()
            self._idle.append(upstream)

    def gone(self, upstream: Upstream) -> None:
        """Forget a closed connection; one that waits may now have another made."""
        self._count(-1)
        if upstream.receiver is None and not upstream.detached:
            self._dead += 1
            if self._dead > _FEW_DEAD and 2 * self._dead > len(self._idle):
                self._idle = [one for one in self._idle if not one.lost]
                self._dead = 0
        if self._waiting:
            self._attempt()

    def sweep(self, now: float) -> None:
        """Close what idled too long (the oldest lie in front), and let an ejected address come back."""
        if self.health is not None:
            self.health.sweep(now)
        idle = self._idle
        if idle and now - idle[0].idle_since > _IDLE_FOR:
            kept = next((at for at, one in enumerate(idle) if now - one.idle_since <= _IDLE_FOR), len(idle))
            self._idle = idle[kept:]
            for upstream in idle[:kept]:
                self._bury(upstream)

    def retire(self) -> None:
        """No table needs this address: close what idles; what is open ends, and is then closed."""
        if not self._retired:
            self._retired = True
            self.close_idle()

    def revive(self) -> None:
        """A table needs this address again."""
        self._retired = False

    def close(self) -> None:
        """Close everything idle and stop connecting."""
        for task in tuple(self._tasks):
            task.cancel()
        self.close_idle()

    def _bury(self, upstream: Upstream) -> None:
        """Close a connection that was taken out of the idle ones, if it is not."""
        if upstream.lost:
            self._dead -= 1
        else:
            upstream.drop()

    def _attempt(self) -> None:
        """Make another connection where more wait than are being made."""
        if self._total < self._limit and self._attempts < len(self._waiting):
            self._count(1)
            self._attempts += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _count(self, more: int) -> None:
        self._total += more
        if self._mirror and self._descriptors is not None:
            self._descriptors.copies += more

    def _next(self) -> Receiver | None:
        while self._waiting:
            receiver, _ = self._waiting.popitem(last=False)
            if receiver.waiting:
                return receiver
        return None

    async def _connect(self) -> None:
        upstream: Upstream | None = None
        ours = False
        try:
            async with asyncio.timeout(self._timeout):
                made = await self._made()
            if not made.closed:  # else: accepted and hung up on at once
                upstream = made
                made.owned = True
        except (OSError, ValueError) as problem:  # TimeoutError and ssl.SSLError are OSErrors
            if self._descriptors is not None and self._descriptors.ours(problem):
                ours = True
                self._descriptors.say(problem)
            else:
                self._say(problem)
        finally:
            self._attempts -= 1
            if upstream is None:
                self._count(-1)
        if upstream is not None:
            self.give(upstream)
            return
        receiver = self._next()
        if ours:
            if receiver is not None:
                receiver.no_room()
        else:
            self._refused_at = monotonic()
            if self.health is not None:
                self.health.record(failed=True)
            if receiver is not None:
                receiver.failed(Ending.CONNECT)
        self._attempt()  # for those that the limit kept from an attempt of their own

    async def _made(self) -> Upstream:
        try:
            return await connect(self.address, self.tls, lambda: Upstream(self))
        except OSError as problem:
            if self._mirror or self._descriptors is None or not self._descriptors.ours(problem):
                raise
            self._descriptors.shed()
        await asyncio.sleep(_CLOSING)
        return await connect(self.address, self.tls, lambda: Upstream(self))

    def close_idle(self) -> None:
        """Close everything idle."""
        idle, self._idle = self._idle, []
        for upstream in idle:
            self._bury(upstream)

    def _say(self, problem: Exception) -> None:
        """A failed handshake is a mistake in a file more often than a failure: name it, now and then."""
        if self._tell is None or not isinstance(problem, ssl.SSLError):
            return
        now = monotonic()
        if now - self._told_at >= _TOLD_EVERY:
            self._told_at = now
            # OpenSSL's words for what failed; of a certificate they hold nothing.
            if isinstance(problem, ssl.SSLCertVerificationError):
                what = f"its certificate cannot be verified: {problem.verify_message}"
            else:
                what = f"no TLS handshake: {problem.reason or 'it failed'}"
            self._tell(f"{self.serves}: {what}; the service file's tls block says how to verify")


def _refuse(receiver: Receiver) -> None:
    if receiver.waiting:
        receiver.waiting = False
        receiver.refused()


def _no_room(receiver: Receiver) -> None:
    if receiver.waiting:
        receiver.waiting = False
        receiver.no_room()
