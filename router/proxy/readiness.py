"""Active readiness: each worker asks the model servers of its table, with connections of its own.

What the protocols offer (the paths are in policies.protocols):

- TensorFlow Serving: GET /v1/models/M lists the versions; the one that is asked for must be AVAILABLE
- KServe v1: GET /v1/models/M, and `ready` must not be false in it
- Open Inference v2: GET /v2/models/M[/versions/V]/ready, where the status decides (Triton has no body)
- MLflow, TorchServe, SageMaker containers: GET /ping; BentoML: GET /readyz
- OpenAI-compatible: GET /health, or /v1/models where that does not exist
- json: nothing is known, so only a declared path is asked

The model's name is the one in the route's path; without one, what needs a name is not asked.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

from ...policies.protocols import PROTOCOLS
from ...store.routes import RouteReadiness, ServiceRoute, UpstreamTls
from ..facts import Ending
from .connecting import Address, connect
from .descriptors import Descriptors
from .ejection import Changes, Health
from .heads import ResponseHead
from .health import available, not_unready
from .receiver import Receiver
from .upstream import Upstream
from .upstream_tls import ClientTls

_AT_ONCE: Final = 32  # probes of one worker under way; the others wait for the next sweep
_JITTER: Final = 0.2  # share of `every` by which probes scatter, so that workers do not ask in step
_LONGEST: Final = 2**20  # bytes of an answer that are kept: TensorFlow Serving lists thousands of versions so
_MODEL = re.compile(r"(?:.*/)?v[12]/models/([^/:]+)(?:[/:].*)?")
_OK, _REDIRECTS = 200, 300
_NOT_OFFERED: Final = frozenset((404, 405, 501))


class Probe(NamedTuple):
    """What to ask and how to read it. `protocol` empty: the status alone decides. Times in seconds."""

    path: str
    protocol: str
    version: str
    host: str | None
    rule: RouteReadiness


def probe_of(route: ServiceRoute, version: str, base: str) -> Probe | None:
    """How to ask whether `version` is ready, or None where that cannot be asked. `base`: its URLs' path."""
    rule = route.readiness
    if not rule.probe:
        return None
    if rule.path is not None:
        return Probe(rule.path, "", "", route.host, rule)
    spoken = PROTOCOLS.get(route.protocol)
    if spoken is None or not spoken.ready:
        return None
    path = spoken.ready
    found = _MODEL.fullmatch(route.path or "")
    if "{model}" in path:
        if found is not None:
            if spoken.ready_version and spoken.addresses(version):
                path = spoken.ready_version
            path = path.format(model=found[1], version=version)
        elif spoken.ready_server:
            path = spoken.ready_server
        else:
            return None
    return Probe(base + path, route.protocol, version, route.host, rule)


class Watch:
    """What is known of one address. `ready` None: not yet known. `was_ready`: it has been at some time.

    `serves`: the version of the service that asked first, for the log.
    """

    __slots__ = ("address", "at", "busy", "failures", "probe", "ready", "serves", "tls", "was_ready")

    def __init__(self, address: Address, tls: ClientTls | None, probe: Probe, serves: str = "") -> None:
        self.serves = serves
        self.address = address
        self.tls = tls
        self.probe = probe
        self.ready: bool | None = None
        self.was_ready = False
        self.failures = 0
        self.at = 0.0  # when to ask next, monotonic seconds
        self.busy = False

    def note(self, *, ready: bool) -> bool:
        """Take the result of a probe; whether it changes what is known."""
        before = self.ready
        if ready:
            self.ready = self.was_ready = True
            self.failures = 0
        else:
            self.failures += 1
            if self.failures >= self.probe.rule.unready_after:
                self.ready = False
        return self.ready is not before


_Key = tuple[Address, UpstreamTls | None, Probe]


class Probes:
    """All watches of a worker, kept across tables by address and question. `changes` counts changes.

    `tell` takes a line of the log for each address that is not ready, and when it is again.
    """

    def __init__(
        self, changes: Changes, descriptors: Descriptors, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._changes = changes
        self._tell = tell
        self._descriptors = descriptors
        self._watches: dict[_Key, Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._jitter = random.Random()  # noqa: S311 - scatters probes, no secret

    def watch(
        self, address: Address, settings: UpstreamTls | None, tls: ClientTls | None, probe: Probe,
        serves: str,
    ) -> Watch:  # fmt: skip
        """The watch of an address: it begins when the next sweep comes."""
        key = (address, settings, probe)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = Watch(address, tls, probe, serves)
        return watch

    def retain(self, used: set[Watch]) -> None:
        """Forget what no table asks any more."""
        self._watches = {key: watch for key, watch in self._watches.items() if watch in used}

    def sweep(self, now: float) -> None:
        """Begin the probes that are due."""
        due = [watch for watch in self._watches.values() if now >= watch.at and not watch.busy]
        due.sort(key=lambda watch: watch.at)  # hung ones must not starve the rest
        for watch in due[: max(0, _AT_ONCE - len(self._tasks))]:
            every = watch.probe.rule.every
            watch.at = now + every * self._jitter.uniform(1 - _JITTER, 1 + _JITTER)
            watch.busy = True
            task = asyncio.get_running_loop().create_task(self._ask(watch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop asking."""
        self._watches.clear()
        for task in tuple(self._tasks):
            task.cancel()

    async def _ask(self, watch: Watch) -> None:
        try:
            async with asyncio.timeout(watch.probe.rule.timeout):
                wrong = await _unready(watch)
        except TimeoutError:
            wrong = f"no answer within {watch.probe.rule.timeout:g} s"
        except (OSError, ValueError) as problem:  # ssl.SSLError is an OSError
            if self._descriptors.ours(problem):
                return  # nobody was asked, so nothing is known that was not before
            wrong = _why(problem)
        finally:
            watch.busy = False
        before = watch.ready
        if watch.note(ready=not wrong):
            self._changes.count += 1
            if wrong:
                probe = f"its readiness probe failed {watch.failures} times in a row"
                self._tell(f"{watch.serves}: {watch.address} is not ready, {probe}: {wrong}")
            elif before is not None:
                self._tell(f"{watch.serves}: {watch.address} is ready again")


def _why(problem: OSError | ValueError) -> str:
    """Without what the other side may have said: it is not ours to repeat."""
    if isinstance(problem, ssl.SSLError):
        return f"TLS failed: {problem.reason or type(problem).__name__}"
    if isinstance(problem, OSError) and problem.errno:
        return os.strerror(problem.errno)
    return "no answer that is HTTP"


async def _unready(watch: Watch) -> str:
    """What an answer says against the address; nothing where it is ready."""
    probe = watch.probe
    status, body = await _get(watch, probe.path)
    if probe.protocol == "openai" and status in _NOT_OFFERED:
        status, body = await _get(watch, probe.path.removesuffix("/health") + "/v1/models")
    if not _OK <= status < _REDIRECTS:
        return f"status {status}" if status else "the connection broke off"
    if probe.protocol == "tensorflow-serving":
        return "" if available(body, probe.version) else "its answer names no available version"
    unready = probe.protocol == "kserve-v1" and not not_unready(body)
    return "its answer says that it is not" if unready else ""


async def _get(watch: Watch, path: str) -> tuple[int, bytes]:
    """Status and body of a GET on a connection of its own. Raises OSError."""
    home = _Once()
    upstream = await connect(watch.address, watch.tls, lambda: Upstream(home))
    try:
        asked = _Asked(asyncio.get_running_loop().create_future())
        if upstream.closed:
            raise ConnectionError
        host = watch.probe.host or str(watch.address)
        head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: accede-probe\r\naccept: */*\r\n"
        upstream.start(asked, f"{head}connection: close\r\n\r\n".encode(), more=False)
        return await asked.result
    finally:
        upstream.drop()


class _Once:
    """The home of a connection that is used once."""

    health: Health | None = None

    def give(self, upstream: Upstream) -> None:
        upstream.drop()

    def gone(self, upstream: Upstream) -> None:
        pass


class _Asked(Receiver):
    """Collects the answer to a probe."""

    __slots__ = ("_body", "_size", "_status", "result")

    def __init__(self, result: asyncio.Future[tuple[int, bytes]]) -> None:
        self.waiting = self.head_only = False
        self.wants_payload = True
        self.result = result
        self._status = self._size = 0
        self._body: list[bytes] = []

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Part of Receiver."""
        self._status = head.status
        self._body = [body]
        self.ended()

    def began(self, head: ResponseHead) -> None:
        """Part of Receiver."""
        self._status = head.status

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """Part of Receiver."""
        self._size += size
        if self._size > _LONGEST:  # the status has to do; where the body decides, an empty one is not ready
            self._body = []
            self.ended()
        else:
            self._body.extend([raw] if payload is None else payload)

    def ended(self) -> None:
        """Part of Receiver."""
        if not self.result.done():
            self.result.set_result((self._status, b"".join(self._body)))

    def failed(self, ending: Ending) -> None:  # noqa: ARG002 - not ready, whatever it was
        """Part of Receiver."""
        if not self.result.done():
            self.result.set_result((0, b""))  # an exception that nobody waits for any more would be logged
