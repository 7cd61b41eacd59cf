"""A ServiceRoute compiled: its arms and mirrors, ready to serve."""

from __future__ import annotations

import re
from typing import Final

from ...errors import WireError
from ...store.routes import WHOLE, Arm, MirrorTarget, ServiceRoute, check_route
from ..facts import CANDIDATE, PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, STABLE, Ending, Placed
from .ages import LOOK
from .breaker import Breaker
from .forwarding import Additions, via_line
from .reach import Reached, Upstreams
from .retrying import RetryBudget
from .units import unit_reader
from .warming import Warmth

_UNTRACKED_ACCOUNT_AFTER = 10.0
_PAIR_KINDS: Final = {"shadow": PAIR_SHADOW, "back": PAIR_BACK, "floor": PAIR_FLOOR}
_SENDABLE = re.compile(r"[\t\x20-\x7e]*")


class ServedArm(Reached):
    """An arm ready to serve.

    `named`: the response header lines of its version. `tail`, `tail_10`: how the head of an answer that
    came as HTTP/1.1 or 1.0 ends behind its request id. `falls_back`: stable answers where it fails.
    """

    __slots__ = ("falls_back", "index", "model", "named", "tail", "tail_10")

    def __init__(
        self, arm: Arm, index: int, route: ServiceRoute, upstreams: Upstreams, *, falls_back: bool = False
    ) -> None:
        super().__init__(
            upstreams, route, arm.version, arm.addresses, arm.tls, at_most=0, trusting=index == STABLE
        )
        self.index = index
        self.falls_back = falls_back
        self.model = None if arm.model is None else arm.model.encode()
        lines = (("x-accede-version", arm.version), ("x-accede-arm", arm.role), *arm.headers)
        for name, value in lines:
            if not (re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) and _SENDABLE.fullmatch(value)):
                raise WireError(f"version {arm.version!r}: the header {name!r} cannot be sent as declared")
        self.named = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
        via_11, via_10 = (via_line(minor=True), via_line(minor=False)) if route.via else (b"", b"")
        self.tail = b"\r\n%b%b\r\n" % (self.named, via_11)
        self.tail_10 = b"\r\n%b%b\r\n" % (self.named, via_10)


class ServedMirror(Reached):
    """A mirror target ready to receive copies.

    `kind`: of the pairs they make. `strip`: lower-case names of fields that they do not carry. `warmth`:
    while its first copies are not counted.
    """

    __slots__ = ("kind", "model", "rate", "route", "strip", "warmth")

    def __init__(self, mirror: MirrorTarget, route: ServiceRoute, upstreams: Upstreams) -> None:
        super().__init__(
            upstreams, route, mirror.version, mirror.addresses, mirror.tls,
            at_most=mirror.max_in_flight, trusting=mirror.kind != "shadow",
        )  # fmt: skip
        self.route = mirror
        self.kind = _PAIR_KINDS[mirror.kind]
        self.rate = mirror.rate / 1e6
        self.strip = frozenset(name.lower().encode() for name in mirror.strip)
        self.model = None if mirror.model is None else mirror.model.encode()
        self.warmth: Warmth | None = None


Mirrored = tuple[tuple[ServedMirror, ...], tuple[ServedMirror, ...]]  # of what stable, the candidate serves


class Service:
    """One service compiled.

    `slot` -1: nothing is analysed. `stable_until`: shares below it are stable's. `budget`: of second
    attempts, the same for every table. `adds`: what requests are told on their way, None: nothing. `holds`:
    predictions wait until their body is complete. `streams`: first tokens are timed. `look`: seconds until
    the clock first looks at one.
    `mirrors`: by the arm that serves, None where nothing is mirrored; `every_mirror`: what the route names.
    `closed`: the candidate gets nothing, whoever asks. `holding`: nor any user while it is cold, and then
    nothing is analysed; `held_for`: the mirror whose copies warm it up meanwhile.
    """

    __slots__ = (
        "account_after", "adds", "arms", "breaker", "budget", "closed", "errors", "every_mirror", "held_for",
        "holding", "holds", "look", "mirrors", "name", "named", "override", "placed", "remembered",
        "repeatable", "route", "salt", "slot", "stable_until", "sticky", "streams", "unit_kind", "unit_of",
    )  # fmt: skip

    def __init__(
        self, placed: Placed, unit_kind: int, upstreams: Upstreams, breaker: Breaker | None,
        budget: RetryBudget,
    ) -> None:  # fmt: skip
        route = placed.route
        check_route(route)
        self.name = route.service
        self.placed = placed
        self.route = route
        self.repeatable = route.side_effects == "none"
        self.remembered = route.plan is not None and route.plan.labels
        self.named = self.remembered or route.recording.sample > 0.0
        falls_back = route.fallback and self.repeatable
        self.arms = tuple(
            ServedArm(arm, index, route, upstreams, falls_back=falls_back and index == CANDIDATE)
            for index, arm in enumerate(route.arms)
        )
        self.budget = budget
        adds = route.forward_client != "none" or route.via
        self.adds = Additions(route.forward_client, via=route.via) if adds else None
        self.streams = route.plan is not None and route.plan.streams
        self.holds = route.unit_path is not None or any(arm.model is not None for arm in route.arms)
        self.unit_kind = unit_kind  # 0: every request is its own unit
        self.salt = b"" if route.salt is None else route.salt.encode() + b"\0"
        self.sticky = unit_kind != 0 and route.plan is not None and route.plan.sticky
        self.account_after = (
            min(route.deadline, _UNTRACKED_ACCOUNT_AFTER) if route.plan is None else route.plan.account_after
        )
        times = (route.deadline, route.first_byte, route.idle, self.account_after, LOOK)
        self.look = min(time for time in times if time is not None)
        self.errors = frozenset(code for low, high in route.errors.ranges for code in range(low, high + 1))
        self.breaker = breaker
        self.override = route.override
        self.unit_of = unit_reader(route.unit_cookie, route.unit_path)
        self.every_mirror = tuple(ServedMirror(mirror, route, upstreams) for mirror in route.mirrors)
        self.closed = bool(placed.held) or (breaker is not None and breaker.open)
        self.holding = False
        self.held_for: ServedMirror | None = None
        self.mirrors: Mirrored | None = None
        self._open()

    def _open(self) -> None:
        """Serve as the route says, unless something closes the candidate."""
        if self.closed:
            self.stable_alone()
            return
        self.slot = self.placed.slot
        self.stable_until = self.route.stable.weight
        self.mirrors = None
        if self.slot >= 0 and self.every_mirror:
            back = tuple(mirror for mirror in self.every_mirror if mirror.kind == PAIR_BACK)
            self.mirrors = tuple(mirror for mirror in self.every_mirror if mirror.kind != PAIR_BACK), back

    def stable_alone(self) -> None:
        """Send nothing more to the candidate; what stable then answers is no sample of this epoch."""
        self.closed = True
        self.holding = False
        self.held_for = None
        self.stable_until = WHOLE
        self.mirrors = None
        self.slot = -1

    def fails(self, ending: Ending, status: int) -> bool:
        """Whether an exchange that ends so is an error, as the service's file says."""
        if ending == Ending.ANSWERED:
            return status in self.errors
        rules = self.route.errors
        return {Ending.CONNECT: rules.connect, Ending.TIMEOUT: rules.timeout}.get(ending, True)

    @property
    def awaited(self) -> ServedArm | None:
        """The candidate where it is to get users, None where it gets none anyway."""
        gets = not self.closed and self.placed.slot >= 0 and self.route.stable.weight < WHOLE
        return self.arms[CANDIDATE] if gets else None

    def hold(self, mirror: ServedMirror | None) -> None:
        """Keep users from the candidate, while copies of `mirror` warm it up or until it is ready at all."""
        self.holding = True
        self.held_for = mirror
        self.stable_until = WHOLE
        self.slot = -1
        self.mirrors = None
        if mirror is not None:
            mirror.rate = 1.0
            self.mirrors = (mirror,), ()

    def let_go(self) -> None:
        """The candidate is warm: serve as the route says."""
        if self.held_for is not None:
            self.held_for.rate = self.held_for.route.rate / 1e6
        if self.holding:
            self.holding = False
            self.held_for = None
            self._open()
