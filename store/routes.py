"""ServiceRoute: all a router needs to serve one service, written by the controller only.

A route is idempotent and complete: applying the same one twice changes nothing, and no route refers
to another. `generation` grows with every write of that service.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import WireError
from .measurement import MeasurementPlan
from .wire import check_version, read_json

WIRE = "accede.route/1"
WHOLE = 10_000  # weights are basis points
MILLION = 1_000_000  # mirror rates are per million


class UpstreamTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a version's https addresses are verified; paths are the router host's, None: the default."""

    verify: bool = True
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version that answers clients. Arm 0 is stable, so growing a weight moves nobody back.

    `model`: what the request's model field is set to (protocol openai); None leaves bodies untouched.
    """

    role: Literal["stable", "candidate"]
    version: str
    addresses: tuple[str, ...]  # base URLs, http://host:port
    weight: int  # basis points
    headers: tuple[tuple[str, str], ...] = ()  # declared response headers, e.g. x-accede-training-data
    tls: UpstreamTls = UpstreamTls()
    model: str | None = None


MirrorKind = Literal["shadow", "back", "floor"]


class MirrorTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that receives copies. `rate` is per million requests; bounds drop and count, never queue.

    `kind`: `shadow` copies what stable serves to the candidate, `back` what the candidate serves to
    stable, `floor` what stable serves to stable again. At most one of each. `strip`: lower-case names of
    request headers that copies do not carry. `warm_up`: first copies of each worker that are not counted.
    """

    version: str
    addresses: tuple[str, ...]
    rate: int
    max_in_flight: int = 256
    max_bytes: int = 64 * 2**20
    max_rps: float | None = None
    deadline: float = 30.0
    kind: MirrorKind = "shadow"
    strip: tuple[str, ...] = ()
    warm_up: int = 0
    tls: UpstreamTls = UpstreamTls()
    model: str | None = None


class RouteErrors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts as a model error: inclusive status ranges, and transport failures."""

    ranges: tuple[tuple[int, int], ...] = ((500, 599),)
    connect: bool = True
    timeout: bool = True


class RouteBreaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trip when `share` of at least `min_requests` candidate answers within `over` seconds are errors."""

    share: float
    over: float
    min_requests: int


class RouteBalance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Balancing over an arm's addresses and passive ejection (see policies.network.Balance)."""

    by: Literal["least-requests", "round-robin"] = "least-requests"
    eject_after: int = 5
    eject_for: float = 10.0
    max_ejected: float = 0.5


class RouteReadiness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Active probes (see policies.network.Readiness). `path` None: the protocol's, or none at all."""

    probe: bool = True
    path: str | None = None
    every: float = 5.0
    timeout: float = 2.0
    unready_after: int = 2


class RouteRecording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the recorder may write (see policies.service.Recording). `sample` is a share, 0..1."""

    sample: float = 0.0
    request: tuple[str, ...] = ()
    response: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()
    max_bytes: int = 256 * 2**20


class ServiceRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One service's route. Times in seconds, sizes in bytes.

    At most one of `unit_header`, `unit_cookie` and `unit_path` (JSON path into the request); without
    any, every request is its own unit. `salt` None gives Envoy's unsalted assignment. `first_byte`,
    `idle`: until the answer begins, between two of its pieces; None: only the deadline counts.
    `fallback`: stable answers what the candidate cannot, where side_effects is none. `override`: SHA-256
    (hex) of the token that lets a request choose its arm; None: nobody may.
    `unattended`: with no lease renewal for so long, the router serves stable alone until a newer
    generation arrives. `served_model`: the name in the path of TF Serving and KServe protocols.
    """

    wire: str
    service: str
    generation: int
    path: str | None
    host: str | None
    protocol: str
    arms: tuple[Arm, ...]
    mirrors: tuple[MirrorTarget, ...] = ()
    unit_header: str | None = None
    unit_cookie: str | None = None
    unit_path: str | None = None
    missing_unit: Literal["stable", "random"] = "stable"
    salt: str | None = None
    side_effects: Literal["none", "shadow-aware", "writes"] = "writes"
    deadline: float = 30.0
    first_byte: float | None = None
    idle: float | None = None
    max_body: int = 8 * 2**20
    capture_request: int = 64 * 2**10
    capture_response: int = 256 * 2**10
    capture_sample: float = 1.0
    errors: RouteErrors = RouteErrors()
    breaker: RouteBreaker | None = None
    unattended: float = 900.0
    fallback: bool = True
    balance: RouteBalance = RouteBalance()
    readiness: RouteReadiness = RouteReadiness()
    forward_client: Literal["none", "x-forwarded", "forwarded"] = "none"
    via: bool = False
    override: str | None = None
    recording: RouteRecording = RouteRecording()
    plan: MeasurementPlan | None = None

    @property
    def stable(self) -> Arm:
        """The arm that answers whenever there is doubt."""
        return self.arms[0]

    @property
    def candidate(self) -> Arm | None:
        """The candidate's arm, present even at weight 0 while a rollout runs."""
        return self.arms[1] if len(self.arms) > 1 else None


_decoder = msgspec.json.Decoder(ServiceRoute)


def encode_route(route: ServiceRoute) -> bytes:
    """The wire form (JSON, readable in the store)."""
    return msgspec.json.encode(route)


def decode_route(data: bytes) -> ServiceRoute:
    """The record of a wire form, validated. Raises WireError."""
    route = read_json(data, _decoder, "a stored route", WIRE)
    check_route(route)
    return route


def check_route(route: ServiceRoute) -> None:
    """Refuse a route no router could serve. Raises WireError naming service and reason."""
    where = f"route of service {route.service!r}, generation {route.generation}"
    check_version(route.wire, WIRE, where)
    reason = _arms(route.arms) or _numbers(route)
    if reason is None and any(not 0 <= mirror.rate <= MILLION for mirror in route.mirrors):
        reason = f"a mirror rate is per million, 0..{MILLION}"
    if reason is None and route.mirrors and route.side_effects == "writes":
        reason = "requests with side effects (writes) are mirrored"
    if reason is None and any(not mirror.addresses for mirror in route.mirrors):
        reason = "a mirror has no address"
    if reason is None and len({mirror.kind for mirror in route.mirrors}) < len(route.mirrors):
        reason = "two mirrors are of the same kind"
    if reason is None and len([unit for unit in _units(route) if unit]) > 1:
        reason = "more than one of unit_header, unit_cookie and unit_path"
    if reason is None and route.path is None and route.host is None:
        reason = "matches neither a path nor a host"
    if reason is not None:
        raise WireError(f"{where}: {reason}")


def _units(route: ServiceRoute) -> tuple[str | None, ...]:
    return route.unit_header, route.unit_cookie, route.unit_path


def _arms(arms: tuple[Arm, ...]) -> str | None:
    if [arm.role for arm in arms] not in (["stable"], ["stable", "candidate"]):
        return "the first arm must be stable, and at most one follows, the candidate"
    if any(arm.weight < 0 for arm in arms) or sum(arm.weight for arm in arms) != WHOLE:
        return f"weights must be >= 0 and sum to {WHOLE}"
    if any(not arm.addresses for arm in arms):
        return "an arm has no address"
    return None


def _numbers(route: ServiceRoute) -> str | None:
    if not route.service:
        return "the service has no name"
    if route.generation < 1:
        return "generations begin at 1"
    times = (route.deadline, route.unattended, route.first_byte or 1.0, route.idle or 1.0)
    if not all(time > 0 for time in times):
        return "deadline, first_byte, idle and unattended must be above 0 s"
    if min(route.max_body, route.capture_request, route.capture_response) < 0:
        return "sizes must be >= 0 bytes"
    if not 0 <= route.capture_sample <= 1:
        return "capture_sample is a share, 0..1"
    plan = route.plan
    if plan is not None and not (plan.batch > 0 and plan.account_after > 0):
        return "the plan's batch and account_after must be above 0 s"
    return None
