"""The controller as a process: files, store, loop and API, started in order and stopped together."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import platform
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import structlog
import uvicorn

from ..errors import AccedeError, Conflict, FileError, PortInUse, StoreError, UsageError
from ..store.open import is_remote, open_store
from ..store.protocol import Store
from .api.access import Access, LoopbackOnly, Tokens
from .api.app import Desk, application
from .files import ServiceFiles
from .lines import Lines
from .loop.loop import Loop
from .loop.tidying import KEEP_DECISIONS
from .rollout.acting import Acts
from .rollout.looking import Engine, statistics

LOCK_NAME: Final = "controller.lock"
_BACKLOG: Final = 128
_DRAIN: Final = 3  # seconds for answers under way when the process is asked to end

log = structlog.get_logger("accede.controller")


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Where to listen, what to look after. `store` None: the store in the data directory.

    On a shared store nothing is kept in the data directory: controllers agree in the store on who decides.

    `services` None: no files; the controller looks after what the store knows.
    `tokens`: the file that says who may call the API; None: everybody on this machine, nobody else.
    `tls`: PEM files of the API's certificate and key; None: plain HTTP. `keep_decisions`: seconds after a
    rollout's end.
    """

    data: Path
    services: Path | None = None
    store: str | None = None
    host: str = "127.0.0.1"
    port: int = 8321
    tokens: Path | None = None
    tls: tuple[Path, Path] | None = None
    keep_decisions: float = KEEP_DECISIONS


def run_controller(
    config: ControllerConfig,
    engine: Callable[[], Engine] = statistics,
    opening: Callable[[str], Store] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. What keeps it from starting is one line on stderr."""
    _log_to_stderr()
    try:
        _check_tls(config.tls)
        access = LoopbackOnly() if config.tokens is None else Tokens(config.tokens)
        with (
            _listening(config) as listener,
            _alone(config),
            _store(config, opening or _opened) as store,
        ):
            files = _files(config, store)
            _serve(config, listener, store, files, engine(), access)
    except AccedeError as problem:
        print(f"accede controller: {problem}", file=sys.stderr)  # noqa: T201  (the one line for the user)
        return problem.exit_code
    except KeyboardInterrupt:  # before the server took over the signals
        return 0
    return 0


def _serve(
    config: ControllerConfig, listener: socket.socket, store: Store, files: ServiceFiles, engine: Engine,
    access: Access,
) -> None:  # fmt: skip
    # Names this process alone: a restarted one must not take itself for the one before.
    name = f"{platform.node() or 'controller'}:{os.getpid()}:{os.urandom(4).hex()}"
    loop = Loop(store, files, engine, name=name, keep_decisions=config.keep_decisions)
    desk = Desk(store, files, Acts(store, files, engine), loop, access=access)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,), name="loop", daemon=True)
    server = uvicorn.Server(
        uvicorn.Config(
            application(desk),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_DRAIN,
            ssl_certfile=None if config.tls is None else config.tls[0],
            ssl_keyfile=None if config.tls is None else config.tls[1],
        )
    )
    with suppress(ValueError):  # in a thread there are no signals to take; whoever started it ends it
        # uvicorn raises the signal again when it has ended, which would kill us before we have.
        signal.signal(signal.SIGTERM, _ignore)
        signal.signal(signal.SIGINT, _ignore)
    thread.start()
    host, port = listener.getsockname()[:2]
    log.info("controller serves", host=host, port=port, services=len(files.known), data=str(config.data))
    try:
        server.run(sockets=[listener])
    finally:
        stop.set()
        # A round under way ends by itself; should it hang in the store, the process ends without it,
        # which is as safe as a kill.
        thread.join(_DRAIN)
        with suppress(AccedeError):
            loop.leading.resign()
        log.info("controller ends")


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Take a signal that uvicorn has answered already."""


@contextmanager
def _listening(config: ControllerConfig) -> Generator[socket.socket, None, None]:
    """The API's socket. Raises UsageError beyond loopback without tokens, PortInUse."""
    if config.tokens is None and not _is_loopback(config.host):
        raise UsageError(
            f"the API cannot listen on {config.host}: without tokens it listens on loopback only; use "
            "127.0.0.1, or name a file of tokens with --tokens (`accede token` makes one)"
        )
    if not 0 <= config.port <= 65535:  # noqa: PLR2004
        raise UsageError(f"port {config.port} does not exist; allowed: 0 to 65535")
    host = "127.0.0.1" if config.host == "localhost" else config.host
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, config.port))
            listener.listen(_BACKLOG)
        except OSError as problem:
            raise PortInUse(
                f"the API cannot listen on {host}:{config.port}: {problem.strerror}; "
                "end what uses it, or choose another port"
            ) from problem
        yield listener


def _check_tls(files: tuple[Path, Path] | None) -> None:
    """Raises UsageError where the server could not use its files."""
    if files is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=_no_passphrase)
    except (OSError, ValueError) as problem:  # ssl.SSLError is an OSError
        reason = getattr(problem, "reason", None) or getattr(problem, "strerror", None) or problem
        raise UsageError(
            f"the API's certificate {files[0]} with the key {files[1]}: {reason}; both are PEM, the key "
            "without a passphrase"
        ) from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _alone(config: ControllerConfig) -> AbstractContextManager[None]:
    """What keeps a second controller away. A shared store tells by itself who leads."""
    return nullcontext() if config.store and is_remote(config.store) else _locked(config.data)


@contextmanager
def _locked(data: Path) -> Generator[None, None, None]:
    """The data directory, made where it is missing, held by this controller alone until it ends.

    The kernel lets go of the lock with the process, also after kill -9. Raises StoreError, Conflict.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise StoreError(
            f"data directory {data}: {problem.strerror}; it must be a directory that this user may write"
        ) from problem
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise Conflict(
                f"another controller runs on this data directory ({data}, process {holder}); end it first"
            ) from problem
        with suppress(OSError):  # the number is for the message above only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _opened(address: str) -> Store:
    """A store that is read many times a second."""
    from .evidence.decoding import decode_evidence

    return open_store(address, decode_evidence)


@contextmanager
def _store(config: ControllerConfig, opening: Callable[[str], Store]) -> Generator[Store, None, None]:
    store = opening(config.store or str(config.data))
    try:
        yield store
    finally:
        with suppress(AccedeError):
            store.close()


def _files(config: ControllerConfig, store: Store) -> ServiceFiles:
    """The declared files. A bad one affects its service only; with nothing to serve at all it is an error."""
    files = ServiceFiles(config.services)
    if files.problems and not files.known and not store.routes().routes:
        raise FileError(files.problems)
    for problem in files.problems:
        log.warning("a file cannot be used", problem=str(problem))
    return files


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=Lines,
    )
