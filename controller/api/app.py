"""The HTTP API under /api/v1: everything the command does, for the command and for everything else.

Acts go straight through to the store, not through the loop, so an abort is written when it is answered.
Errors are `{"error": {"kind", "message", "exit_code"}}`. Who may call what is in `access`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import structlog
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ... import __version__
from ...errors import AccedeError, NotFound, UsageError
from ...policies.tokens import ApiToken
from ...store.protocol import Store
from ...store.rollouts import RolloutRecord
from ..evidence.merging import merged
from ..files import ServiceFiles
from ..labels.feedback import FeedbackRequest, take
from ..loop.loop import Loop
from ..plan.service import plan_service
from ..rollout.acting import Acts
from ..rollout.approvals import Person
from ..rollout.explain import explain
from .access import Access, LoopbackOnly, may, require
from .codes import http_code
from .leaders import controllers_view, leaderless
from .messages import (
    OPERATIONS,
    SERVICE,
    ActRequest,
    ApproveRequest,
    PlanRequest,
    PromoteRequest,
    StartRequest,
)
from .openapi import Operation, document
from .shown import (
    Controllers,
    Explained,
    Failed,
    Failure,
    Health,
    History,
    Rollouts,
    RolloutView,
    Services,
)
from .views import decision_lines, rollout_line, rollout_view, service_view

MAX_BODY: Final = 2**20  # bytes; a policy of any sense is a hundredth of it
ALIVE_WITHIN: Final = 5.0  # seconds since the loop's last round
HUNG_AFTER: Final = 60.0  # seconds without a sign of the loop; a call on a store ends in far less
_AUDIT_LIMIT: Final = 10_000

Body = TypeVar("Body", bound=BaseModel)
log = structlog.get_logger("accede.controller")


@dataclass(frozen=True, slots=True)
class Desk:
    """What the API works with."""

    store: Store
    files: ServiceFiles
    acts: Acts
    loop: Loop
    clock: Callable[[], float] = time.time
    access: Access = field(default_factory=LoopbackOnly)


def application(desk: Desk) -> Starlette:
    """The ASGI application."""
    endpoints = _Endpoints(desk)
    by_operation: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "GET /api/v1/services": endpoints.services,
        "GET /api/v1/controllers": endpoints.controllers,
        "GET /api/v1/rollouts": endpoints.rollouts,
        f"POST {SERVICE}/rollouts": endpoints.start,
        f"GET {SERVICE}/rollout": endpoints.rollout,
        f"POST {SERVICE}/rollout/pause": endpoints.pause,
        f"POST {SERVICE}/rollout/resume": endpoints.resume,
        f"POST {SERVICE}/rollout/promote": endpoints.promote,
        f"POST {SERVICE}/rollout/approve": endpoints.approve,
        f"POST {SERVICE}/rollout/abort": endpoints.abort,
        f"POST {SERVICE}/plan": endpoints.plan,
        f"POST {SERVICE}/feedback": endpoints.feedback,
        f"GET {SERVICE}/history": endpoints.history,
        f"GET {SERVICE}/explain": endpoints.explain,
        "GET /healthz": endpoints.healthz,
        "GET /readyz": endpoints.readyz,
    }
    routes = [
        Route(
            one.path, _guarded(desk.access, one, by_operation[f"{one.method} {one.path}"]),
            methods=[one.method],
        )
        for one in OPERATIONS
    ]  # fmt: skip
    described = msgspec.json.encode(document(OPERATIONS, Failed, __version__))

    async def openapi(_: Request) -> Response:
        return Response(described, media_type="application/json")

    shown = Operation("GET", "/openapi.json", "This list", None, role=None)
    routes.append(Route(shown.path, _guarded(desk.access, shown, openapi), methods=["GET"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_ours})


class _Endpoints:
    """One coroutine per operation; everything that touches the store runs in a thread."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def services(self, _: Request) -> Response:
        return _answer(await run_in_threadpool(self._services))

    async def controllers(self, _: Request) -> Response:
        return _answer(await run_in_threadpool(self._controllers))

    async def rollouts(self, request: Request) -> Response:
        records = await run_in_threadpool(self._desk.store.rollouts, request.query_params.get("service"))
        return _answer(Rollouts(tuple(rollout_line(record) for record in records)))

    async def start(self, request: Request) -> Response:
        body = await _body(request, StartRequest)
        record = await run_in_threadpool(
            self._desk.acts.start,
            request.path_params["service"],
            body.candidate,
            _actor(request, body),
            policy=body.policy,
            policy_text=body.policy_text,
            policy_file=body.policy_file,
            reason=body.reason,
            people=self._people(_actor(request, body)),
        )
        return _answer(await run_in_threadpool(self._view, record), 201)

    def _people(self, actor: str) -> list[Person]:
        """All who may approve; without tokens, whoever says so."""
        known = self._desk.access.everybody()
        if known is None:
            return [Person(actor, known=False)]
        return [Person(one.name, one.groups) for one in known if may(one, "approver")]

    async def rollout(self, request: Request) -> Response:
        record = await run_in_threadpool(self._record, request)
        return _answer(await run_in_threadpool(self._view, record))

    async def pause(self, request: Request) -> Response:
        return await self._act(request, self._desk.acts.pause)

    async def resume(self, request: Request) -> Response:
        return await self._act(request, self._desk.acts.resume)

    async def abort(self, request: Request) -> Response:
        return await self._act(request, self._desk.acts.abort)

    async def promote(self, request: Request) -> Response:
        body = await _body(request, PromoteRequest)
        service = request.path_params["service"]
        record = await run_in_threadpool(
            self._desk.acts.promote, service, _actor(request, body), body.reason,
            full=body.full, may_override=may(request.state.caller, "approver"),
        )  # fmt: skip
        return _answer(await run_in_threadpool(self._view, record))

    async def approve(self, request: Request) -> Response:
        body = await _body(request, ApproveRequest)
        caller: ApiToken | None = request.state.caller
        groups = () if caller is None else caller.groups
        person = Person(_actor(request, body), groups, known=caller is not None)
        service = request.path_params["service"]
        record = await run_in_threadpool(self._desk.acts.approve, service, person, body.reason, body.step)
        return _answer(await run_in_threadpool(self._view, record))

    async def plan(self, request: Request) -> Response:
        body = await _body(request, PlanRequest)
        store, files = self._desk.store, self._desk.files
        return _answer(
            await run_in_threadpool(plan_service, store, files, request.path_params["service"], body)
        )

    async def feedback(self, request: Request) -> Response:
        body = await _body(request, FeedbackRequest)
        service = self._desk.files.service(request.path_params["service"])
        return _answer(await run_in_threadpool(take, self._desk.store, service, body, self._desk.clock()))

    async def history(self, request: Request) -> Response:
        service = request.path_params["service"]
        limit = _integer(request, "limit") or 200
        if not 1 <= limit <= _AUDIT_LIMIT:
            raise UsageError(f"limit is {limit}; allowed: 1 to {_AUDIT_LIMIT}")
        entries = await run_in_threadpool(self._desk.store.audit, service, limit)
        if not entries:
            await run_in_threadpool(self._desk.acts.require_service, service)
        return _answer(History(service, entries))

    async def explain(self, request: Request) -> Response:
        record = await run_in_threadpool(self._record, request)
        decisions = await run_in_threadpool(self._desk.store.decisions, record.id)
        explanation = explain(record, decisions, _integer(request, "number"))
        return _answer(Explained(explanation, decision_lines(decisions)))

    async def healthz(self, _: Request) -> Response:
        silent = time.monotonic() - self._desk.loop.turned
        if silent > HUNG_AFTER:
            reason = f"the loop has done nothing for {silent:.0f} s: restart this controller"
            return _answer(Health(ok=False, reason=reason), 503)
        return _answer(Health(ok=True))

    async def readyz(self, _: Request) -> Response:
        await run_in_threadpool(self._desk.store.revision)
        beat = self._desk.loop.beat
        if beat is None or time.monotonic() - beat > ALIVE_WITHIN:
            return _answer(Health(ok=False, reason="the loop has not finished a round lately"), 503)
        found = await run_in_threadpool(self._controllers)
        # Who asks shows no token, so no names. One that stands by is ready: it takes acts, and takes over.
        role = "leads" if found.leader == self._desk.loop.leading.name else "stands by"
        return _answer(Health(ok=True, role=role, warning=leaderless(found)))

    async def _act(self, request: Request, act: Callable[[str, str, str], RolloutRecord]) -> Response:
        body = await _body(request, ActRequest)
        record = await run_in_threadpool(
            act, request.path_params["service"], _actor(request, body), body.reason
        )
        return _answer(await run_in_threadpool(self._view, record))

    def _record(self, request: Request) -> RolloutRecord:
        """The rollout of `id`, or the service's newest."""
        service, rollout = request.path_params["service"], request.query_params.get("id")
        records = self._desk.store.rollouts(service)
        found = [record for record in records if rollout in (None, record.id)]
        if not found:
            if not records:
                self._desk.acts.require_service(service)
            what = f"no rollout {rollout!r}" if rollout else "no rollout; start one first"
            raise NotFound(f"service {service!r} has {what}")
        return found[-1]

    def _view(self, record: RolloutRecord) -> RolloutView:
        store = self._desk.store
        self._desk.loop.ask(record.service)
        route = next((one for one in store.routes().routes if one.service == record.service), None)
        evidence = merged(store.evidence(record.service, record.id))
        reports, clock = store.reports(), self._desk.clock()
        return rollout_view(record, route, evidence, reports, clock, self._controllers())

    def _controllers(self) -> Controllers:
        return controllers_view(self._desk.store.leadership(), self._desk.loop.leading.name)

    def _services(self) -> Services:
        store, files = self._desk.store, self._desk.files
        routes, reports = store.routes(), store.reports()
        by_name = {route.service: route for route in routes.routes}
        views = [
            service_view(
                name,
                files.known.get(name),
                by_name.get(name),
                store.rollout(name),
                reports,
                self._desk.loop.problems.get(name) or routes.broken.get(name),
            )
            for name in sorted(set(files.known) | set(by_name) | set(routes.broken))
        ]
        problems = tuple(str(problem) for problem in files.problems)
        return Services(tuple(views), problems, self._controllers())


def _guarded(
    access: Access, operation: Operation, endpoint: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """Refuse who may not call it, and turn every error into its body."""

    async def answer(request: Request) -> Response:
        try:
            _admit(access, operation, request)
            return await endpoint(request)
        except AccedeError as problem:
            return _failure(type(problem).__name__, str(problem), problem.exit_code, http_code(problem))
        except ClientDisconnect:
            return _failure("UsageError", "the request was not complete", 2, 400)
        except Exception as problem:
            log.exception("an API call failed", path=request.url.path)
            message = f"an unexpected fault ({type(problem).__name__}); see the controller's log"
            return _failure("AccedeError", message, 1, 500)

    return answer


async def _not_ours(request: Request, problem: Exception) -> Response:
    code = problem.status_code if isinstance(problem, HTTPException) else 500
    what = "no such path" if code == 404 else "not allowed here"  # noqa: PLR2004
    return _failure("NotFound", f"{request.method} {request.url.path}: {what}; see /openapi.json", 1, code)


def _admit(access: Access, operation: Operation, request: Request) -> None:
    """Find out who asks, and refuse who may not."""
    request.state.caller = None
    if operation.role is not None or isinstance(access, LoopbackOnly):
        caller = access.caller(request.headers.get("host", ""), request.headers.get("authorization"))
        if operation.role is not None:
            require(caller, operation.role)
        request.state.caller = caller
    if request.method == "POST":
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise UsageError("the body must be JSON; send content-type: application/json")


def _actor(request: Request, body: ActRequest) -> str:
    """Who acts: whoever the token was given to, else who the request names."""
    caller = request.state.caller
    if caller is None and not body.actor:
        raise UsageError("the request is wrong: actor: say who acts")
    return body.actor if caller is None else str(caller.name)


async def _body(request: Request, model: type[Body]) -> Body:
    """The request's body, bounded and validated. Raises UsageError naming each wrong key."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise UsageError(f"the body is larger than {MAX_BODY} bytes")
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as problem:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg']}"
            for one in problem.errors(include_url=False, include_input=False, include_context=False)
        )
        raise UsageError(f"the request is wrong: {wrong}") from None


def _integer(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:  # noqa: PLR2004  (no number of ours is larger)
        raise UsageError(f"{name} must be a whole number")
    return int(text)


def _answer(value: Any, code: int = 200) -> Response:
    return Response(msgspec.json.encode(value), code, media_type="application/json")


def _failure(kind: str, message: str, exit_code: int, code: int) -> Response:
    answer = _answer(Failed(Failure(kind, message, exit_code)), code)
    if code == 401:  # noqa: PLR2004
        answer.headers["www-authenticate"] = "Bearer"  # RFC 9110 section 11.6.1
    return answer
