"""Which arm answers: a hash of the unit against cumulative weights, stable first.

share = xxh64(key, seed 0) % 10 000, so growing the candidate's weight moves nobody back to stable, and
without a salt the split equals that of Envoy's weighted clusters. A salt is hashed before the key with
a zero byte between, so no pair of salt and key can imitate another.
"""

from __future__ import annotations

import xxhash

from ..store.measurement import CLUSTERS
from ..store.routes import WHOLE

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
