"""Which arm answers: a hash of the unit against cumulative weights, stable first.

share = xxh64(key, seed 0) % 10 000, so growing the candidate's weight moves nobody back to stable, and
without a salt the split equals that of Envoy's weighted clusters. A salt is hashed before the key with
a zero byte between, so no pair of salt and key can imitate another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import xxhash

from ...store.measurement import CLUSTERS
from ...store.routes import WHOLE
from ..facts import CANDIDATE, STABLE

if TYPE_CHECKING:
    from .table import Service

_CLUSTER_SEED = 1  # another seed than the split's: a cluster must not tell the arm


def salted(salt: str | None, key: bytes) -> bytes:
    """What is hashed for `key`."""
    return key if salt is None else salt.encode() + b"\0" + key


def share_of(key: bytes) -> int:
    """The unit's place in 0..9999, of a salted key: below stable's weight it is stable's."""
    return xxhash.xxh64_intdigest(key, 0) % WHOLE


def cluster_of(key: bytes) -> int:
    """The unit's cluster in 0..127, of a salted key."""
    return xxhash.xxh64_intdigest(key, _CLUSTER_SEED) % CLUSTERS


def assign(service: Service, seen: Mapping[int, bytes], random: Callable[[], float]) -> tuple[int, int, bool]:
    """The arm, the unit's cluster (-1: none) and whether the request is excluded for want of a unit key.

    `seen`: header values by kind. A service whose unit is the request draws `random` (0 <= x < 1): a
    client must not be able to choose its arm by choosing a request id.
    """
    until = service.stable_until
    if service.unit_kind:
        key = seen.get(service.unit_kind)
        if key:
            key = service.salt + key
            arm = CANDIDATE if until < WHOLE and share_of(key) >= until else STABLE
            return arm, cluster_of(key) if service.sticky else -1, False
        if service.route.missing_unit == "stable" or random() * WHOLE < until:
            return STABLE, -1, True
        return CANDIDATE, -1, True
    return STABLE if until >= WHOLE or random() * WHOLE < until else CANDIDATE, -1, False
