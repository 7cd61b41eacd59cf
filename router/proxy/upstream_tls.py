"""TLS towards upstreams: one context per settings, made when a table is applied, made anew when files change.

Verification is on unless a service file turns it off. Nothing older than TLS 1.2 is spoken (RFC 8996).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from ...errors import WireError
from ...store.routes import UpstreamTls

_LOOK_EVERY: Final = 2.0  # seconds between looks at the files; a renewed certificate is valid for days before
Stamp = tuple[tuple[int, int, int] | None, ...]


class ClientTls:
    """How the addresses of some versions are verified. `context` is what new connections use now."""

    __slots__ = ("_refused", "_settings", "_stamp", "context", "server_name")

    def __init__(self, settings: UpstreamTls) -> None:
        """Raises WireError naming the file that cannot be used."""
        self._settings = settings
        self._stamp = _stamp(settings)
        self._refused: tuple[Stamp, bool] | None = None
        self.server_name = settings.server_name
        self.context = _context(settings)

    def renew(self) -> str:
        """Make the context anew if a file has changed; what is wrong with the changed files, said once.

        Said when they are as wrong at the next look: certificate and key are rarely replaced at one instant.
        """
        stamp = _stamp(self._settings)
        if stamp == self._stamp:
            return ""
        try:
            self.context = _context(self._settings)
        except WireError as problem:
            before = self._refused
            again = before is not None and before[0] == stamp
            self._refused = (stamp, again)
            return str(problem) if again and before is not None and not before[1] else ""
        self._stamp = stamp
        self._refused = None
        return ""


class Contexts:
    """The TLS settings in use. `tell`: gets one line when changed files cannot be used."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._known: dict[UpstreamTls, ClientTls] = {}
        self._looked_at = 0.0

    def get(self, settings: UpstreamTls) -> ClientTls:
        """The shared context of `settings`. Raises WireError where there is none and none can be made."""
        known = self._known.get(settings)
        if known is None:
            known = self._known[settings] = ClientTls(settings)
        return known

    def sweep(self, now: float) -> None:
        """Follow changed files; connections that exist keep what they were made with."""
        if now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        for known in self._known.values():
            problem = known.renew()
            if problem:
                self._tell(f"changed TLS files cannot be used, those read before stay in force: {problem}")

    def retain(self, used: set[ClientTls | None]) -> None:
        """Forget settings that no pool and no probe uses."""
        self._known = {key: known for key, known in self._known.items() if known in used}


def _context(settings: UpstreamTls) -> ssl.SSLContext:
    _readable("tls.ca", settings.ca)
    _readable("tls.certificate", settings.certificate)
    _readable("tls.key", settings.key)
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ValueError):
        _unusable("tls.ca", settings.ca, "holds no PEM certificate")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate is not None:
        try:
            # A passphrase would be asked for on the terminal.
            context.load_cert_chain(settings.certificate, settings.key, password=lambda: b"")
        except (OSError, ValueError):
            where = f" and tls.key {settings.key!r}" if settings.key is not None else ""
            _unusable(
                f"tls.certificate {settings.certificate!r}{where}",
                None,
                "hold no PEM certificate and its private key without a passphrase",
            )
    return context


def _readable(key: str, file: str | None) -> None:
    if file is None:
        return
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except OSError as problem:
        _unusable(key, file, f"cannot be read by the router: {problem.strerror or 'no such file'}")
    except ValueError:
        _unusable(key, file, "is no file name")


def _unusable(key: str, file: str | None, reason: str) -> NoReturn:
    shown = key if file is None else f"{key} {file!r}"
    raise WireError(f"{shown} {reason}")


def _stamp(settings: UpstreamTls) -> Stamp:
    """What changes when a file is written or replaced, also through links (as mounted secrets are)."""
    return tuple(_seen(file) for file in (settings.ca, settings.certificate, settings.key))


def _seen(file: str | None) -> tuple[int, int, int] | None:
    if file is None:
        return None
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
