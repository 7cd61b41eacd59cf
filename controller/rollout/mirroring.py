"""What an epoch mirrors: to the candidate, back to stable, to stable twice; and what warms a candidate up."""

from __future__ import annotations

import msgspec

from ...errors import Conflict
from ...policies.service import ModelService
from ...store.rollouts import EpochRecord
from ...store.routes import MILLION, Arm, MirrorKind, MirrorTarget


def mirrors_of(
    service: ModelService, stable: Arm, candidate: Arm, epoch: EpochRecord
) -> tuple[MirrorTarget, ...]:
    """The copies of an epoch, at most one target of each kind.

    Raises Conflict where the epoch mirrors and the service's file does not allow it.
    """
    mirrored = epoch.mirrored > 0 or epoch.mirror_back > 0
    if service.side_effects == "writes":
        if mirrored:
            raise Conflict(
                f"service {service.name!r}: side_effects is writes, so requests cannot be mirrored; "
                "declare side_effects: none or shadow-aware, or use a policy without a shadow step and "
                "without mirror_back"
            )
        return ()
    targets: list[MirrorTarget] = []
    warm_up = service.mirror.warm_up
    if epoch.mirrored > 0 or (warm_up and epoch.place == "canary"):
        # In a canary without a shadow nothing is copied but what warms the candidate up.
        shadow = _target(service, candidate, epoch.mirrored)
        targets.append(msgspec.structs.replace(shadow, warm_up=warm_up))
    if epoch.mirror_back > 0:
        targets.append(msgspec.structs.replace(_target(service, stable, epoch.mirror_back), kind="back"))
    floor = noise_floor(service, epoch)
    if floor > 0:
        targets.append(msgspec.structs.replace(_target(service, stable, floor), kind="floor"))
    return tuple(targets)


def noise_floor(service: ModelService, epoch: EpochRecord) -> float:
    """The share of stable's requests (0..1) that stable is asked a second time.

    As many as `noise_floor` of what is mirrored in all: what the candidate answers, which may be mirrored
    back, stable does not, so a heavy canary asks for more of the rest.
    """
    rest = 1.0 - epoch.weight
    back = epoch.mirror_back * epoch.weight / rest if rest > 0 else 0.0
    return min(1.0, service.mirror.noise_floor * (epoch.mirrored + back))


def kinds_of(targets: tuple[MirrorTarget, ...]) -> frozenset[MirrorKind]:
    """The kinds of pairs that these targets make."""
    return frozenset(target.kind for target in targets if target.rate > 0)


def _target(service: ModelService, arm: Arm, share: float) -> MirrorTarget:
    return MirrorTarget(
        version=arm.version,
        addresses=arm.addresses,
        rate=round(share * MILLION),
        max_in_flight=service.mirror.max_in_flight,
        max_bytes=service.mirror.max_bytes,
        max_rps=service.mirror.max_rps,
        deadline=service.limits.deadline,
        strip=tuple(name.lower() for name in service.mirror.strip),
        tls=arm.tls,
        model=arm.model,
    )
