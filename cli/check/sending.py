"""Every row to both versions at the same moment, a bounded number of rows at a time; nothing is retried."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeVar

import httpx
import msgspec

from ...errors import UsageError
from ...policies.service import Version
from ...router.facts import Ending
from .trial import Answer

T = TypeVar("T")

_HEAD: Final = "inference-header-content-length"
_MOST: Final = 64 * 2**20  # bytes of an answer that are read; whatever is longer is cut off and an error


@dataclass(frozen=True, slots=True)
class Call:
    """How a prediction is asked for. `kept`: bytes of an answer beyond which its body is not kept."""

    path: str
    deadline: float
    kept: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Endpoint:
    """One version. `name`: as the report says it."""

    def __init__(self, name: str, version: Version, call: Call, connections: int) -> None:
        self.name = name
        self._addresses = tuple(address.rstrip("/") for address in version.addresses)
        self._call = call
        self._model = version.model
        self._sni: dict[str, Any] = {}
        if version.tls.server_name:
            self._sni = {"sni_hostname": version.tls.server_name}
        self._client = httpx.AsyncClient(
            verify=_verified(version), trust_env=False, follow_redirects=False,
            timeout=httpx.Timeout(call.deadline),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )  # fmt: skip
        self._asked = 0

    async def ask(self, body: bytes) -> Answer:
        """One answer; whatever goes wrong is one too."""
        address = self._addresses[self._asked % len(self._addresses)]
        self._asked += 1
        began = monotonic()
        try:
            async with asyncio.timeout(self._call.deadline):
                return await self._ask(address + self._call.path, self._addressed(body), began)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            return Answer(Ending.TIMEOUT, latency=monotonic() - began)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol):
            return Answer(Ending.CONNECT, latency=monotonic() - began)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return Answer(Ending.TRUNCATED, latency=monotonic() - began)

    async def _ask(self, url: str, body: bytes, began: float) -> Answer:
        headers = {"content-type": "application/json", "x-accede-shadow": "1", **self._call.headers}
        kept: list[bytes] = []
        size = 0
        async with self._client.stream(
            "POST", url, content=body, headers=headers, extensions=dict(self._sni)
        ) as response:
            async for part in response.aiter_raw():
                size += len(part)
                if size > _MOST:
                    return Answer(Ending.TRUNCATED, response.status_code, monotonic() - began, size=size)
                if size <= self._call.kept:
                    kept.append(part)
            head = response.headers.get(_HEAD, "")
            return Answer(
                Ending.ANSWERED, response.status_code, monotonic() - began,
                b"".join(kept) if size <= self._call.kept else b"",
                response.headers.get("content-encoding", ""), int(head) if head.isdecimal() else -1, size,
            )  # fmt: skip

    async def reachable(self) -> str:
        """'' or why none of the version's addresses takes a connection."""
        reason = ""
        for address in self._addresses:
            url = httpx.URL(address)
            port = url.port or (443 if url.scheme == "https" else 80)
            try:
                async with asyncio.timeout(self._call.deadline):
                    _, writer = await asyncio.open_connection(url.host, port)
                writer.close()
            except (OSError, TimeoutError) as problem:
                reason = f"{address} does not take a connection: {str(problem) or 'too late'}"
            else:
                return ""
        return reason

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def _addressed(self, body: bytes) -> bytes:
        if self._model is None:
            return body
        document: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.json.encode({**document, "model": self._model})


def _verified(version: Version) -> ssl.SSLContext | bool:
    if not any(address.startswith("https") for address in version.addresses):
        return False
    tls = version.tls
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
    except OSError as problem:
        raise UsageError(f"the certificates under `tls` cannot be read: {problem}") from problem
    return context


async def each(items: Iterator[T], together: int, one: Callable[[T], Awaitable[None]]) -> None:
    """Do `one` for every item, at most `together` at a time. Memory: as many items."""

    async def worker() -> None:
        for item in items:
            await one(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(together):
            group.create_task(worker())
