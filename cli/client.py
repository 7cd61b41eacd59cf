"""The controller's API as the command sees it. Errors of the transport become ours, in one clear line."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from ..controller.api.shown import Explained, Failed, History, RolloutView, Services
from ..controller.plan.planned import Plan
from ..errors import AccedeError, TimedOut, Unreachable, UsageError
from ..store.labels import LabelCounts

if TYPE_CHECKING:
    from .labels_file import LabelLine

T = TypeVar("T")

_CONNECT: Final = 3.0  # seconds; a controller that runs accepts at once


class Refused(AccedeError):
    """The controller refused, and says with which exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Client:
    """One controller. `timeout`: seconds for each answer. Use it in a `with` block.

    Every method raises Unreachable, TimedOut, or Refused with what the controller says.
    """

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        self.address = address.rstrip("/")
        self._timeout = timeout
        try:
            url = httpx.URL(self.address)
        except httpx.InvalidURL as wrong:
            raise UsageError(f"--api {address!r} is no address ({wrong}); write http://host:port") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise UsageError(f"--api {address!r} is no address; write http://host:port")
        limits = httpx.Timeout(timeout, connect=min(_CONNECT, timeout))
        token, authorities = os.environ.get("ACCEDE_TOKEN", "").strip(), os.environ.get("ACCEDE_API_CA", "")
        if not token.isascii() or not token.isprintable():
            raise UsageError("ACCEDE_TOKEN has characters that no token has; copy it again")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are for the world outside; a controller is named by its own address.
        self._http = httpx.Client(
            base_url=url, timeout=limits, trust_env=False, headers=headers, verify=_verifying(authorities)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def services(self) -> Services:
        """All services."""
        return self._get("/api/v1/services", Services)

    def rollout(self, service: str, rollout: str | None = None) -> RolloutView:
        """The newest rollout of a service, or the one with that id."""
        return self._get(f"{_path(service)}/rollout", RolloutView, id=rollout)

    def history(self, service: str, limit: int) -> History:
        """The last entries of a service's audit trail, oldest first."""
        return self._get(f"{_path(service)}/history", History, limit=limit)

    def explain(self, service: str, rollout: str | None = None, number: int | None = None) -> Explained:
        """Why: the `number`-th decision, or the last."""
        return self._get(f"{_path(service)}/explain", Explained, id=rollout, number=number)

    def start(
        self,
        service: str,
        candidate: str,
        actor: str,
        *,
        policy: str | None = None,
        policy_text: str | None = None,
        policy_file: str | None = None,
        reason: str = "",
    ) -> RolloutView:
        """Begin a rollout by a policy's name, its text, or the one that the service names."""
        body = {
            "candidate": candidate, "actor": actor, "reason": reason,
            "policy": policy, "policy_text": policy_text, "policy_file": policy_file,
        }  # fmt: skip
        given = {key: value for key, value in body.items() if value is not None}
        return self._send("POST", f"{_path(service)}/rollouts", RolloutView, given)

    def plan(
        self,
        service: str,
        given: Mapping[str, Any],
        *,
        policy: str | None = None,
        policy_text: str | None = None,
        policy_file: str | None = None,
    ) -> Plan:
        """What a rollout would need at the traffic that was measured, or given."""
        body = {"policy": policy, "policy_text": policy_text, "policy_file": policy_file, "given": given}
        sent = {key: value for key, value in body.items() if value is not None}
        return self._send("POST", f"{_path(service)}/plan", Plan, sent)

    def act(self, service: str, verb: str, actor: str, reason: str = "", **more: int) -> RolloutView:
        """`pause`, `resume`, `promote`, `approve` or `abort` the open rollout."""
        body = {"actor": actor, "reason": reason, **more}
        return self._send("POST", f"{_path(service)}/rollout/{verb}", RolloutView, body)

    def feedback(self, service: str, labels: Sequence[LabelLine]) -> LabelCounts:
        """Send labels, and hear what became of them."""
        body = {"labels": msgspec.to_builtins(labels)}
        return self._send("POST", f"{_path(service)}/feedback", LabelCounts, body)

    def _get(self, path: str, kind: type[T], **query: str | int | None) -> T:
        given = {key: value for key, value in query.items() if value is not None}
        return self._send("GET", path, kind, None, given)

    def _send(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Mapping[str, Any] | None,
        query: Mapping[str, str | int] | None = None,
    ) -> T:
        try:
            answer = self._http.request(method, path, json=body, params=query)
        except httpx.ConnectError as problem:
            if "CERTIFICATE" in str(problem):
                raise Unreachable(
                    f"the certificate of {self.address} cannot be verified: {problem}; "
                    "ACCEDE_API_CA names the authorities to trust"
                ) from None
            raise Unreachable(
                f"no controller at {self.address}: start one with `accede serve`, or name another with --api"
            ) from None
        except httpx.TimeoutException:
            raise TimedOut(
                f"the controller at {self.address} did not answer within {self._timeout:g} s"
            ) from None
        except httpx.HTTPError as problem:
            raise Unreachable(
                f"the controller at {self.address} broke off: {type(problem).__name__}"
            ) from None
        try:
            if answer.is_success:
                return msgspec.json.decode(answer.content, type=kind)
            failure = msgspec.json.decode(answer.content, type=Failed).error
        except msgspec.DecodeError:
            raise Unreachable(
                f"what answers at {self.address} is no controller of this version (HTTP {answer.status_code})"
            ) from None
        raise Refused(failure.message, failure.exit_code)


def _verifying(authorities: str) -> ssl.SSLContext | bool:
    """How an https address is verified. Raises UsageError."""
    if not authorities:
        return True
    try:
        return ssl.create_default_context(cafile=authorities)
    except OSError as problem:  # ssl.SSLError is one
        reason = problem.strerror or "no certificate in it"
        raise UsageError(f"ACCEDE_API_CA names {authorities!r}: {reason}") from None


def _path(service: str) -> str:
    return f"/api/v1/services/{quote(service, safe='')}"
