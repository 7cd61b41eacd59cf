"""Several addresses of one version as one source of connections.

`least-requests` takes the less busy of two addresses chosen at random: nearly as even as looking at all of
them, and no address draws every worker at once (Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", 2001). Addresses that are not ready, and those ejected, are left out while another one is left.

An address that cannot be connected has got nothing of the request. So the next address is asked, whatever
the request does: it is neither a retry nor the fallback to stable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import floor

from ...store.routes import RouteBalance
from ..facts import Ending
from .ejection import Changes
from .pool import Pool
from .readiness import Watch
from .receiver import Receiver
from .upstream import Upstream


class Balancer:
    """A Source over `pools`, two or more. `watches`: per pool, None where nothing is probed.

    `trusting`: an address of which nothing is known yet counts as ready.
    """

    __slots__ = (
        "_changes", "_in_turn", "_missed", "_out", "_random", "_seeking", "_seen", "_trusting", "_turn",
        "_usable", "_watches", "pools",
    )  # fmt: skip

    def __init__(
        self, pools: tuple[Pool, ...], watches: tuple[Watch | None, ...], rule: RouteBalance,
        changes: Changes, *, trusting: bool,
    ) -> None:  # fmt: skip
        self.pools = pools
        self._watches = watches
        self._changes = changes
        self._trusting = trusting
        self._in_turn = rule.by == "round-robin"
        self._out = floor(rule.max_ejected * len(pools) + 1e-9)  # 0.3 * 10 is a little less than 3
        self._random = random.Random().random  # noqa: S311 - a choice, no secret
        self._turn = random.randrange(len(pools))  # noqa: S311 - workers must not begin at the same one
        self._missed: Pool | None = None  # chosen by `take`, for the `ask` that follows
        self._seeking: dict[Receiver, _Seeking] = {}
        self._seen = -1
        self._usable: Sequence[Pool] = pools

    def take(self) -> Upstream | None:
        """Part of Source."""
        pool = self._chosen()
        upstream = pool.take()
        self._missed = pool if upstream is None else None
        return upstream

    def ask(self, receiver: Receiver) -> None:
        """Part of Source."""
        pool, self._missed = self._missed, None
        seeking = self._seeking[receiver] = _Seeking(self, receiver, pool or self._chosen())
        seeking.go()

    def leave(self, receiver: Receiver) -> None:
        """Part of Source."""
        seeking = self._seeking.pop(receiver, None)
        if seeking is not None:
            seeking.waiting = False
            seeking.pool.leave(seeking)

    def found(self, receiver: Receiver) -> None:
        """`receiver` has its connection, or will get none."""
        self._seeking.pop(receiver, None)

    def another(self, tried: list[Pool]) -> Pool | None:
        """The next address to try: one in use before one that is left out."""
        left = [pool for pool in self._look() if pool not in tried]
        left = left or [pool for pool in self.pools if pool not in tried]
        return min(left, key=lambda pool: pool.load) if left else None

    def _chosen(self) -> Pool:
        usable = self._usable if self._seen == self._changes.count else self._look()
        count = len(usable)
        if count == 1:
            return usable[0]
        if self._in_turn:
            self._turn += 1
            return usable[self._turn % count]
        one = int(self._random() * count)
        other = int(self._random() * (count - 1))
        first, second = usable[one], usable[other + (other >= one)]
        return first if first.load <= second.load else second

    def _look(self) -> Sequence[Pool]:
        """Which addresses get requests now; computed anew only when something has changed."""
        if self._seen != self._changes.count:
            self._seen = self._changes.count
            ready = [
                pool
                for pool, watch in zip(self.pools, self._watches, strict=True)
                if watch is None or watch.ready or (watch.ready is None and self._trusting)
            ] or list(self.pools)
            ejected = sorted(
                (pool.health.ejected_at, at)
                for at, pool in enumerate(ready)
                if pool.health is not None and pool.health.ejected
            )[: self._out]
            out = {at for _, at in ejected}
            self._usable = [pool for at, pool in enumerate(ready) if at not in out] or ready
        return self._usable


class _Seeking(Receiver):
    """Waits for a connection in the place of `receiver`, at one address after the other."""

    __slots__ = ("_balancer", "_no_room", "_receiver", "_refused", "_tried", "pool")

    def __init__(self, balancer: Balancer, receiver: Receiver, pool: Pool) -> None:
        self.waiting = True
        self.head_only = self.wants_payload = False
        self._balancer = balancer
        self._receiver = receiver
        self._tried: list[Pool] = []
        self._refused = True  # by every pool so far, for no address was tried
        self._no_room = False  # for one of them: this side could not try
        self.pool = pool

    def go(self) -> None:
        """Take or ask at `pool`."""
        self._tried.append(self.pool)
        self.waiting = True
        upstream = self.pool.take() if len(self._tried) > 1 else None
        if upstream is not None:
            self.connected(upstream)
        else:
            self.pool.ask(self)

    def connected(self, upstream: Upstream) -> None:
        """Part of Receiver."""
        self.waiting = False
        self._balancer.found(self._receiver)
        if self._receiver.waiting:
            self._receiver.connected(upstream)
        else:
            upstream.pool.give(upstream)

    def failed(self, ending: Ending) -> None:
        """Part of Receiver."""
        self._refused = False
        self._on(ending)

    def refused(self) -> None:
        """Part of Receiver."""
        self._on(Ending.CONNECT)

    def no_room(self) -> None:
        """Part of Receiver."""
        self._no_room = True
        self._on(Ending.CONNECT)

    def _on(self, ending: Ending) -> None:
        if not self._receiver.waiting:
            self._balancer.found(self._receiver)
            return
        pool = self._balancer.another(self._tried)
        if pool is not None:
            self.pool = pool
            self.go()
            return
        self.waiting = False
        self._balancer.found(self._receiver)
        if self._no_room:
            self._receiver.no_room()
        elif self._refused:
            self._receiver.refused()
        else:
            self._receiver.failed(ending)
