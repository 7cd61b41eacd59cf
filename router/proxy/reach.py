"""How the addresses of a version are reached: its source of connections, its readiness, what they show.

Everything is decided when a table is applied. A version with one address gets that address's pool itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakSet

from ...errors import WireError
from ...store.routes import RouteBalance, ServiceRoute, UpstreamTls
from ..facts import Unwell
from .balance import Balancer
from .connecting import Address
from .descriptors import Descriptors
from .ejection import Changes, Health
from .pool import Pool, Source
from .readiness import Probe, Probes, Watch, probe_of
from .upstream_tls import Contexts
from .use import Use

_HTTPS: Final = 443
_HTTP: Final = 80


class AddressView(NamedTuple):
    """One address of a version as a worker sees it now. `ready` None: not probed, or not known yet.

    `open`: requests on a connection or waiting for one; `connections`: made, idle ones among them.
    """

    version: str
    address: str
    ready: bool | None
    ejected: bool
    failures: int
    open: int
    connections: int
    waiting: int


class Reached:
    """The addresses of one arm or mirror. `source` gives connections, `base` is the path of its URLs.

    `probed`: whether any is asked for its readiness; without probes all are ready.
    """

    __slots__ = ("_trusting", "_use", "base", "pools", "probed", "source", "version", "watches")

    def __init__(
        self, upstreams: Upstreams, route: ServiceRoute, version: str, addresses: tuple[str, ...],
        tls: UpstreamTls, *, at_most: int, trusting: bool,
    ) -> None:  # fmt: skip
        """Raises WireError."""
        parsed = [_parsed(address) for address in addresses]
        bases = {base for _, base in parsed}
        if len(bases) > 1:
            raise WireError(f"version {version!r}: its addresses differ in the path behind host and port")
        self.version = version
        self.base = bases.pop()
        self._trusting = trusting
        rule = route.balance if len(parsed) > 1 else None
        serves = f"version {version} of {route.service}"
        self.pools = tuple(upstreams.pool(at, at_most, tls, rule, serves) for at, _ in parsed)
        probe = probe_of(route, version, self.base)
        self.watches: tuple[Watch | None, ...] = tuple(
            None if probe is None else upstreams.watch(at, tls, probe, serves) for at, _ in parsed
        )
        self.source: Source = (
            self.pools[0]
            if rule is None
            else Balancer(self.pools, self.watches, rule, upstreams.changes, trusting=trusting)
        )
        self.probed = any(watch is not None for watch in self.watches)
        self._use = Use(route.service, version, self.pools, self.watches)
        upstreams.follow(self._use)

    @property
    def ready(self) -> bool:
        """Whether any address is, as probes say.

        Before the first answer to one a `trusting` arm (stable) is, another is not.
        """
        return not self.probed or any(
            watch.ready or (watch.ready is None and self._trusting)
            for watch in self.watches
            if watch is not None
        )

    @property
    def was_ready(self) -> bool:
        """Whether any address has ever been."""
        return not self.probed or any(watch.was_ready for watch in self.watches if watch is not None)


def _views(use: Use) -> list[AddressView]:
    return [
        AddressView(
            use.version, str(pool.address), None if watch is None else watch.ready,
            pool.health is not None and pool.health.ejected,
            0 if pool.health is None else pool.health.failures,
            pool.load, pool.connections, pool.waiting,
        )
        for pool, watch in zip(use.pools, use.watches, strict=True)
    ]  # fmt: skip


class Upstreams:
    """All pools, TLS contexts and probes of a worker. `tell` takes one line of its log.

    `copies`: connections that copies may have at one time.
    """

    def __init__(
        self, connect_timeout: float, tell: Callable[[str], None] = lambda _: None, copies: int = 4096
    ) -> None:
        self.changes = Changes()
        self._timeout = connect_timeout
        self._tell = tell
        self._contexts = Contexts(tell)
        self._descriptors = Descriptors(copies, tell, self._shed)
        self._probes = Probes(self.changes, self._descriptors, tell)
        self._pools: dict[tuple[str, Address, int, UpstreamTls | None, RouteBalance | None], Pool] = {}
        self._uses: WeakSet[Use] = WeakSet()

    def pool(
        self, address: Address, at_most: int, tls: UpstreamTls, rule: RouteBalance | None, serves: str
    ) -> Pool:
        """The pool of an address for one version, whose failures and queues must be no other's.

        Raises WireError naming a TLS file that cannot be used.
        """
        settings = tls if address.tls else None
        key = (serves, address, at_most, settings, rule)
        pool = self._pools.get(key)
        if pool is None:
            context = None if settings is None else self._contexts.get(settings)
            whose = f"{serves}, copies" if at_most else serves
            tell = self._tell
            health = (
                None
                if rule is None
                else Health(rule, self.changes, lambda what: tell(f"{whose}: {address} {what}"))
            )
            pool = Pool(
                address, at_most, self._timeout, context, health, serves, self._tell, self._descriptors
            )
            self._pools[key] = pool
        pool.revive()
        return pool

    def watch(self, address: Address, tls: UpstreamTls, probe: Probe, serves: str) -> Watch:
        """The watch of an address, which `serves` a version. Raises WireError."""
        settings = tls if address.tls else None
        context = None if settings is None else self._contexts.get(settings)
        return self._probes.watch(address, settings, context, probe, serves)

    def follow(self, use: Use) -> None:
        """Keep its pools and probes while anything holds it."""
        self._uses.add(use)

    def probe(self, now: float) -> None:
        """Begin the probes that are due: also of what a new table has brought."""
        self._probes.sweep(now)

    def sweep(self, now: float) -> None:
        """Close idle connections, follow files, begin probes; drain what no table and no request holds."""
        self._contexts.sweep(now)
        pools: set[Pool] = set()
        watches: set[Watch] = set()
        for use in self._uses:
            pools.update(use.pools)
            watches.update(watch for watch in use.watches if watch is not None)
        for key, pool in list(self._pools.items()):
            pool.sweep(now)
            if pool in pools:
                continue
            pool.retire()
            if not pool.busy:
                del self._pools[key]
        self._probes.retain(watches)
        contexts = {pool.tls for pool in self._pools.values()} | {watch.tls for watch in watches}
        self._contexts.retain(contexts)
        self._probes.sweep(now)

    def view(self) -> list[AddressView]:
        """Every address that is in use now."""
        return [view for use in self._uses for view in _views(use)]

    def unwell(self) -> list[Unwell]:
        """Every address that is not ready or ejected, once, in order.

        An address has a pool for users and one for copies; it is what either of them says.
        """
        found: dict[tuple[str, str, str], tuple[bool, bool]] = {}
        for use in self._uses:
            for pool, watch in zip(use.pools, use.watches, strict=True):
                unready = watch is not None and watch.ready is False
                ejected = pool.health is not None and pool.health.ejected
                if unready or ejected:
                    key = (use.service, use.version, str(pool.address))
                    before = found.get(key, (False, False))
                    found[key] = (unready or before[0], ejected or before[1])
        return [Unwell(*key, *states) for key, states in sorted(found.items())]

    def _shed(self) -> None:
        for pool in self._pools.values():
            pool.close_idle()

    def close(self) -> None:
        """Close all."""
        self._probes.close()
        for pool in self._pools.values():
            pool.close()


def _parsed(url: str) -> tuple[Address, str]:
    """Address and base path of a version's URL. Raises WireError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise WireError(f"address {url!r}: {problem}") from problem
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise WireError(f"address {url!r} is not http://host[:port][/path] or https://…")
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (_HTTPS if tls else _HTTP), tls), parts.path.rstrip("/")
