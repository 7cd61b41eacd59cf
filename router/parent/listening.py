"""The sockets that clients connect to: one per worker on the same address, kept open by the parent."""

from __future__ import annotations

import errno
import os
import socket

from ...errors import AccedeError, PortInUse

BACKLOG = 4096


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address (port 0: the system chooses one). Raises PortInUse.

    The address is tried without SO_REUSEPORT first: with it, a second router of the same user would
    silently take half of the first one's connections.
    """
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as problem:
        raise AccedeError(
            f"cannot listen on {where}: {problem.strerror}; name an address of this host"
        ) from problem
    sockets: list[socket.socket] = []
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            if not port:
                address = probe.getsockname()
        for _ in range(count):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
        for one in sockets:
            one.listen(BACKLOG)
    except OSError as problem:
        for one in sockets:
            one.close()
        if problem.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"cannot listen on {where}: the port is in use by another process; "
                "stop it, or choose another port"
            ) from problem
        raise AccedeError(
            f"cannot listen on {where}: {problem.strerror}; choose another address"
        ) from problem
    return sockets


def listen_unix(path: str) -> socket.socket:
    """A listening Unix socket that only this user may connect to. Raises OSError."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.bind(path)
    os.chmod(path, 0o600)  # noqa: PTH101 (before listen, so nobody can have connected)
    one.listen(BACKLOG)
    return one
