"""One worker process: `python -m accede.router.worker CONFIG`, CONFIG a WorkerConfig as JSON."""

from __future__ import annotations

import msgspec


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parent hands a worker. Descriptors are inherited (`pass_fds`), times in seconds.

    `worker`: slot index, `workers`: how many blocks the counters' map has. `boot`: names this
    process's life in flushes. `listen`: bound sockets (listen() already called, one worker each).
    `control`: one end of a Unix stream socket pair: framed Table and Drain come in, Applied and
    Tripped go out; its end of file means the parent is gone, and the worker drains and exits.
    `observer`: path of the observer's Unix socket. `counters`: path of the map (router/counters.py).
    """

    worker: int
    workers: int
    boot: str
    listen: tuple[int, ...]
    control: int
    observer: str
    counters: str
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    connect_timeout: float = 5.0
    drain_timeout: float = 30.0
