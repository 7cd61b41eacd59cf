"""Connections to one address: idle ones to reuse, new ones as requests ask for them.

A pool is keyed by address and outlives route tables. Mirrors have pools of their own, so copies never
take a connection from clients.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from time import monotonic
from typing import Final, NamedTuple

from ..facts import Ending
from .upstream import Receiver, Upstream

_CLIENT_LIMIT: Final = 1024  # connections of one worker to one address; more requests wait for one
_KEPT_IDLE: Final = 256
_IDLE_FOR: Final = 4.0  # seconds; below the 5 s after which the common Python servers close
_REFUSED_FOR: Final = 0.1  # seconds for which a mirror's address that refused is not tried again


class Address(NamedTuple):
    """Where to connect."""

    host: str
    port: int
    tls: bool


class Pool:
    """The connections of one worker to `address`. `at_most` 0: client traffic; else a mirror's bound."""

    __slots__ = (
        "_attempts", "_limit", "_loop", "_mirror", "_refused_at", "_tasks", "_timeout", "_tls", "_total",
        "_waiting", "address", "idle", "used_at",
    )  # fmt: skip

    def __init__(self, address: Address, at_most: int, timeout: float, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self.idle: list[Upstream] = []
        self.used_at = monotonic()
        self._loop = asyncio.get_running_loop()
        self._limit = at_most or _CLIENT_LIMIT
        self._mirror = at_most > 0
        self._timeout = timeout
        self._tls = tls
        self._waiting: OrderedDict[Receiver, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attempts = 0  # connections being made
        self._total = 0  # connections made or being made
        self._refused_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether anything is connected, connecting or waiting."""
        return self._total > 0 or bool(self._waiting)

    def take(self) -> Upstream | None:
        """The connection used last, if one is idle."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            if upstream.usable():
                return upstream
        return None

    def ask(self, receiver: Receiver) -> None:
        """Call `receiver.connected` with a connection as soon as there is one, or `receiver.failed`."""
        if self._mirror and monotonic() - self._refused_at < _REFUSED_FOR:
            receiver.failed(Ending.CONNECT)
            return
        self._waiting[receiver] = None
        self._attempt()

    def leave(self, receiver: Receiver) -> None:
        """`receiver` wants no connection any more; what it holds must not wait on for one."""
        self._waiting.pop(receiver, None)

    def give(self, upstream: Upstream) -> None:
        """Take a connection whose answer is complete: the next in line gets it, or it idles."""
        receiver = self._next()
        if receiver is not None:
            receiver.connected(upstream)
        elif len(self.idle) < _KEPT_IDLE:
            upstream.idle_since = self.used_at = monotonic()
            self.idle.append(upstream)
        else:
            upstream.drop()

    def gone(self, upstream: Upstream) -> None:
        """Forget a closed connection; one that waits may now have another made."""
        self._total -= 1
        if upstream.receiver is None and upstream in self.idle:
            self.idle.remove(upstream)
        receiver = self._next()
        if receiver is not None:
            self.ask(receiver)

    def sweep(self, now: float) -> None:
        """Close what idled too long: the oldest lie in front."""
        while self.idle and now - self.idle[0].idle_since > _IDLE_FOR:
            self.idle.pop(0).drop()

    def close(self) -> None:
        """Close everything idle and stop connecting."""
        for task in tuple(self._tasks):
            task.cancel()
        while self.idle:
            self.idle.pop().drop()

    def _attempt(self) -> None:
        """Make another connection where more wait than are being made."""
        if self._total < self._limit and self._attempts < len(self._waiting):
            self._total += 1
            self._attempts += 1
            task = self._loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next(self) -> Receiver | None:
        while self._waiting:
            receiver, _ = self._waiting.popitem(last=False)
            if receiver.waiting:
                return receiver
        return None

    async def _connect(self) -> None:
        address = self.address
        upstream: Upstream | None = None
        try:
            async with asyncio.timeout(self._timeout):
                _, upstream = await self._loop.create_connection(
                    lambda: Upstream(self),
                    address.host,
                    address.port,
                    ssl=self._tls if address.tls else None,
                    server_hostname=address.host if address.tls else None,
                )
        except (OSError, ssl.SSLError, UnicodeError):  # TimeoutError is an OSError
            self._refused_at = monotonic()
        finally:
            self._attempts -= 1
            if upstream is None:
                self._total -= 1
        if upstream is not None:
            self.give(upstream)
            return
        receiver = self._next()
        if receiver is not None:
            receiver.failed(Ending.CONNECT)
        self._attempt()  # for those that the limit kept from an attempt of their own


class Pools:
    """All pools of a worker."""

    def __init__(self, connect_timeout: float) -> None:
        self._timeout = connect_timeout
        self._tls: ssl.SSLContext | None = None
        self._pools: dict[tuple[Address, int], Pool] = {}

    def get(self, address: Address, at_most: int) -> Pool:
        """The pool of an address; `at_most` > 0 for a mirror's."""
        key = (address, at_most)
        pool = self._pools.get(key)
        if pool is None:
            if address.tls and self._tls is None:
                self._tls = ssl.create_default_context()
            pool = self._pools[key] = Pool(address, at_most, self._timeout, self._tls)
        return pool

    def sweep(self, now: float) -> None:
        """Close idle connections."""
        for pool in self._pools.values():
            pool.sweep(now)

    def retain(self, used: set[Pool], now: float) -> None:
        """Forget pools that no table needs once they are idle."""
        for key, pool in list(self._pools.items()):
            if pool not in used and not pool.busy and now - pool.used_at > _IDLE_FOR:
                pool.close()
                del self._pools[key]

    def close(self) -> None:
        """Close all."""
        for pool in self._pools.values():
            pool.close()
