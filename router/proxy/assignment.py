"""Which arm answers: a hash of the unit against cumulative weights, stable first.

share = xxh64(key, seed 0) % 10 000, so growing the candidate's weight moves nobody back to stable, and
without a salt the split equals that of Envoy's weighted clusters. A salt is hashed before the key with
a zero byte between, so no pair of salt and key can imitate another.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import xxhash

from ...store.measurement import CLUSTERS
from ...store.routes import WHOLE
from ..facts import CANDIDATE, STABLE
from .heads import CHOICE, TOKEN, Malformed

if TYPE_CHECKING:
    from .served import Service

NO_UNIT: Final = -1
CHOSEN: Final = -2  # instead of a unit's cluster: the caller chose the arm, so nothing of it is a sample
_CLUSTER_SEED = 1  # another seed than the split's: a cluster must not tell the arm
_CHOICES: Final = {b"stable": STABLE, b"candidate": CANDIDATE}


def salted(salt: str | None, key: bytes) -> bytes:
    """What is hashed for `key`."""
    return key if salt is None else salt.encode() + b"\0" + key


def share_of(key: bytes) -> int:
    """The unit's place in 0..9999, of a salted key: below stable's weight it is stable's."""
    return xxhash.xxh64_intdigest(key, 0) % WHOLE


def cluster_of(key: bytes) -> int:
    """The unit's cluster in 0..127, of a salted key."""
    return xxhash.xxh64_intdigest(key, _CLUSTER_SEED) % CLUSTERS


def assign(
    service: Service, seen: Mapping[int, bytes], random: Callable[[], float], body: bytes | None
) -> tuple[int, int, bool]:
    """The arm, the unit's cluster (NO_UNIT, CHOSEN), and whether the request is excluded from the analysis.

    `seen`: header values by kind. `body`: the whole request's where the unit's key is in it, None where it
    is not held. A service whose unit is the request draws `random` (0 <= x < 1): a client must not be able
    to choose its arm by choosing a request id. Raises Malformed as `chosen_arm`, which clients ask before.
    """
    if service.override is not None and CHOICE in seen:
        chosen = chosen_arm(service, service.override, seen)
        if chosen is not None:
            return chosen, CHOSEN, True
    until = service.stable_until
    kind = service.unit_kind
    if not kind:
        return STABLE if until >= WHOLE or random() * WHOLE < until else CANDIDATE, NO_UNIT, False
    key = seen.get(kind) if service.unit_of is None else service.unit_of(seen, body)
    if key:
        key = service.salt + key
        arm = CANDIDATE if until < WHOLE and share_of(key) >= until else STABLE
        return arm, cluster_of(key) if service.sticky else NO_UNIT, False
    if service.route.missing_unit == "stable" or random() * WHOLE < until:
        return STABLE, NO_UNIT, True
    return CANDIDATE, NO_UNIT, True


def chosen_arm(service: Service, digest: str, seen: Mapping[int, bytes]) -> int | None:
    """The arm that a caller chose; None without a token: anybody may send the other header.

    `digest`: SHA-256 of the token, in hexadecimal. While something keeps the candidate closed (a breaker, a
    lease, an abort) it is stable's all the same. Raises Malformed: 403 for a wrong token, 400 for no arm.
    """
    if CHOICE not in seen:
        return None
    token = seen.get(TOKEN)
    if token is None:
        return None
    if not hmac.compare_digest(hashlib.sha256(token).hexdigest(), digest):
        raise Malformed(403, "x-accede-token is not the token that lets a caller choose the version")
    arm = _CHOICES.get(seen[CHOICE].lower())
    if arm is None:
        raise Malformed(400, "x-accede-arm is neither candidate nor stable")
    return STABLE if service.closed or arm >= len(service.arms) else arm
