"""ServiceRoutes from a service's file and its rollout: the one place where weights become a route.

Every function returns the route of the next generation. What an open rollout measures (matching,
units, errors, capture, extraction) stays as it was when the rollout began, whatever the file says
meanwhile: sums of different meaning do not add.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from ...errors import Conflict
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService, Version
from ...store.measurement import MeasurementPlan
from ...store.rollouts import Phase, RolloutRecord
from ...store.routes import (
    WHOLE,
    WIRE,
    Arm,
    RouteBalance,
    RouteBreaker,
    RouteErrors,
    RouteReadiness,
    RouteRecording,
    ServiceRoute,
    UpstreamTls,
    check_route,
)
from .measuring import measurement_plan
from .mirroring import mirrors_of
from .overriding import override_digest

Role = Literal["stable", "candidate"]

_IDLE_UNATTENDED: Final = 900.0  # seconds; stable alone has nothing to fall back from


def idle_route(service: ModelService, version: str, stored: ServiceRoute | None) -> ServiceRoute:
    """Stable alone, nothing measured. `stored`: the route it replaces, or None for the first one.

    A version that the file no longer names keeps the addresses it was last known by.
    """
    arm = _arm(service, "stable", version, WHOLE, stored)
    return _checked(_base(service, (arm,), stored))


def rollout_route(
    service: ModelService, record: RolloutRecord, policy: RolloutPolicy, stored: ServiceRoute
) -> ServiceRoute:
    """The route of an open rollout in the epoch of its record.

    Raises Conflict where a step would mirror to a service whose file does not allow it, or where its
    override's token is not at hand.
    """
    epoch = record.epochs[-1]
    weight = round(epoch.weight * WHOLE)
    arms = (
        _arm(service, "stable", record.stable, WHOLE - weight, stored),
        _arm(service, "candidate", record.candidate, weight, stored),
    )
    route = msgspec.structs.replace(
        _base(service, arms, stored),
        mirrors=mirrors_of(service, arms[0], arms[1], epoch),
        salt=record.salt if service.unit.salt == "rollout" else None,
        breaker=_breaker(policy),
        unattended=policy.unattended.after,
        plan=measurement_plan(record, policy, service, epoch, record.constants),
    )
    if stored.plan is not None and stored.plan.rollout == record.id:
        route = _as_begun(route, stored)
    return _checked(route)


def ended_route(record: RolloutRecord, stored: ServiceRoute) -> ServiceRoute:
    """The surviving version alone. Needs no file: what a route needs to end a rollout, it carries."""
    version = record.candidate if record.phase is Phase.PROMOTED else record.stable
    arm = next((arm for arm in stored.arms if arm.version == version), None)
    if arm is None:
        raise Conflict(
            f"service {record.service!r}: the stored route does not serve version {version!r}; "
            "name it under versions in the service's file"
        )
    return _checked(
        msgspec.structs.replace(
            stored,
            generation=stored.generation + 1,
            arms=(msgspec.structs.replace(arm, role="stable", weight=WHOLE),),
            mirrors=(),
            salt=None,
            breaker=None,
            unattended=_IDLE_UNATTENDED,
            plan=None,
        )
    )


def renewed_route(stored: ServiceRoute) -> ServiceRoute:
    """The same route one generation later: tells routers that a decision stands behind it again."""
    return msgspec.structs.replace(stored, generation=stored.generation + 1)


def same_route(one: ServiceRoute, other: ServiceRoute) -> bool:
    """True where two routes differ in their generation at most."""
    return msgspec.structs.replace(one, generation=other.generation) == other


def _base(service: ModelService, arms: tuple[Arm, ...], stored: ServiceRoute | None) -> ServiceRoute:
    return ServiceRoute(
        wire=WIRE,
        service=service.name,
        generation=stored.generation + 1 if stored is not None else 1,
        path=service.match.path,
        host=service.match.host,
        protocol=service.protocol,
        arms=arms,
        unit_header=service.unit.header,
        unit_cookie=service.unit.cookie,
        unit_path=service.unit.path,
        missing_unit=service.unit.missing,
        side_effects=service.side_effects,
        deadline=service.limits.deadline,
        first_byte=service.limits.first_byte,
        idle=service.limits.idle,
        max_body=service.limits.body,
        capture_request=service.capture.request,
        capture_response=service.capture.response,
        capture_sample=service.capture.sample,
        errors=RouteErrors(
            ranges=service.errors.status, connect=service.errors.connect, timeout=service.errors.timeout
        ),
        unattended=_IDLE_UNATTENDED,
        fallback=service.fallback,
        balance=RouteBalance(**service.balance.model_dump()),
        readiness=RouteReadiness(**service.readiness.model_dump()),
        forward_client=service.forwarding.client,
        via=service.forwarding.via,
        override=override_digest(service),
        recording=RouteRecording(**service.recording.model_dump()),
    )


def _as_begun(route: ServiceRoute, stored: ServiceRoute) -> ServiceRoute:
    """The route with everything that gives the rollout's sums their meaning taken from the stored one."""
    plan: MeasurementPlan | None = route.plan
    if plan is not None and stored.plan is not None:
        begun = stored.plan
        plan = msgspec.structs.replace(
            plan,
            extraction=begun.extraction,
            sticky=begun.sticky,
            account_after=begun.account_after,
            streams=begun.streams,
            labels=begun.labels,
            label_sample=begun.label_sample,
            label_keep=begun.label_keep,
            outcome=begun.outcome,
        )
    return msgspec.structs.replace(
        route,
        path=stored.path,
        host=stored.host,
        protocol=stored.protocol,
        unit_header=stored.unit_header,
        unit_cookie=stored.unit_cookie,
        unit_path=stored.unit_path,
        missing_unit=stored.missing_unit,
        salt=stored.salt,
        deadline=stored.deadline,
        first_byte=stored.first_byte,
        idle=stored.idle,
        fallback=stored.fallback,
        capture_request=stored.capture_request,
        capture_response=stored.capture_response,
        capture_sample=stored.capture_sample,
        errors=stored.errors,
        plan=plan,
    )


def _arm(service: ModelService, role: Role, version: str, weight: int, stored: ServiceRoute | None) -> Arm:
    declared = service.versions.get(version)
    if declared is not None:
        return Arm(
            role, version, declared.addresses, weight, _headers(declared),
            UpstreamTls(**declared.tls.model_dump()), declared.model,
        )  # fmt: skip
    known = next((arm for arm in stored.arms if arm.version == version), None) if stored is not None else None
    if known is None:
        raise Conflict(
            f"service {service.name!r}: version {version!r} is unknown; "
            f"its file names {', '.join(service.versions) or 'none'}"
        )
    return msgspec.structs.replace(known, role=role, weight=weight)


def _headers(version: Version) -> tuple[tuple[str, str], ...]:
    """The declared response headers of a version; only what a header can carry."""
    trained_on = version.card.get("trained_on", "")
    clean = trained_on.isascii() and trained_on.isprintable() and trained_on.strip() == trained_on
    return (("x-accede-training-data", trained_on),) if trained_on and clean else ()


def _breaker(policy: RolloutPolicy) -> RouteBreaker | None:
    breaker = policy.breaker
    if breaker is None:
        return None
    return RouteBreaker(share=breaker.errors, over=breaker.over, min_requests=breaker.min_requests)


def _checked(route: ServiceRoute) -> ServiceRoute:
    check_route(route)
    return route
