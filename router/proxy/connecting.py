"""How a connection to an address is made: names resolved off the loop, every IP tried, then TLS.

The tries overlap as in Happy Eyeballs (RFC 8305), so an IP that swallows packets delays a connection
instead of using up its whole time. Names are resolved again for every connection: no answer is kept.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Final, NamedTuple, TypeVar, cast

from .upstream_tls import ClientTls

_HEAD_START: Final = 0.25  # seconds before the next IP is tried as well: RFC 8305, section 5

Connection = TypeVar("Connection")  # with the methods of asyncio.Protocol
Info = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


class Address(NamedTuple):
    """Where to connect."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        """The authority, as a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


async def connect(address: Address, tls: ClientTls | None, factory: Callable[[], Connection]) -> Connection:
    """A connection to `address`, through the TLS handshake where `tls` is given.

    Raises OSError (ssl.SSLError is one) or ValueError (a name that is none). The caller bounds the time.
    """
    loop = asyncio.get_running_loop()
    end = await _dial(loop, address)
    try:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, protocol = await loop.create_connection(
            cast("Callable[[], asyncio.Protocol]", factory),
            sock=end,
            ssl=None if tls is None else tls.context,
            server_hostname=None if tls is None else tls.server_name or address.host,
        )
    except BaseException:
        end.close()
        raise
    return cast("Connection", protocol)


async def _dial(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    """The first of the host's IPs that accepts."""
    infos = _interleaved(await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
    if len(infos) == 1:
        return await _one(loop, infos[0])
    problem = OSError("the name has no address")
    trying: set[asyncio.Task[socket.socket]] = set()
    try:
        while infos or trying:
            if infos:
                trying.add(loop.create_task(_one(loop, infos.popleft())))
            done, _ = await asyncio.wait(
                trying, timeout=_HEAD_START if infos else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                trying.discard(task)
                refused = task.exception()
                if refused is None:
                    trying.update(done)  # another one that came in as well is closed below
                    trying.discard(task)
                    return task.result()
                problem = refused if isinstance(refused, OSError) else problem
        raise problem
    finally:
        for task in trying:
            task.cancel()
        for left in await asyncio.gather(*trying, return_exceptions=True):
            if isinstance(left, socket.socket):
                left.close()


async def _one(loop: asyncio.AbstractEventLoop, info: Info) -> socket.socket:
    family, kind, number, _, where = info
    end = socket.socket(family, kind, number)
    try:
        end.setblocking(False)
        await loop.sock_connect(end, where)
    except BaseException:
        end.close()
        raise
    return end


def _interleaved(infos: Sequence[Info]) -> deque[Info]:
    """In the resolver's order, but the families take turns: RFC 8305, section 4."""
    first = [info for info in infos if info[0] == infos[0][0]]
    second = [info for info in infos if info[0] != infos[0][0]]
    turns = chain.from_iterable(zip_longest(first, second))
    return deque(info for info in turns if info is not None)
