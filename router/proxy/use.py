"""Which pools and watches something holds: a Use disappears with the last that holds it.

Apart from `reach`, because a compiled class cannot be referred to weakly (docs/decisions/0009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pool import Pool
    from .readiness import Watch


class Use:
    """The addresses of one version, as one route means them: a pool of each, and a watch or None."""

    __slots__ = ("__weakref__", "pools", "service", "version", "watches")

    def __init__(
        self, service: str, version: str, pools: tuple[Pool, ...], watches: tuple[Watch | None, ...]
    ) -> None:
        self.service = service
        self.version = version
        self.pools = pools
        self.watches = watches
