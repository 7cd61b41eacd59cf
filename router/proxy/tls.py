"""TLS towards clients: the files an operator names, the context made of them, and their renewal.

A new certificate takes effect for new connections, with a new context: an old one could not forget a
client CA, nor the sessions that were made under it. Files are looked at twice before they are read, so one
that is still being written is not; a set that does not fit together leaves the old one in force.
"""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import msgspec

from ...errors import UsageError

LOOK: Final = 1.0  # seconds between looks at the files; two looks see a change
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
_LARGEST: Final = 2**20  # bytes of a file; the bundle of all public authorities has a quarter of that

Seen = tuple[tuple[int, int, int] | None, ...]


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of PEM files: certificate with its chain, its key, and the CA that clients' must come from."""

    certificate: str
    key: str
    client_ca: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca is not None else ()))

    def seen(self) -> Seen:
        """What tells one state of the files from another: time, size and inode of each."""
        return tuple(_stamp(path) for path in self.paths)


class Pem(msgspec.Struct, frozen=True):
    """The files' contents."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None

    @classmethod
    def read(cls, files: TlsFiles) -> Self:
        """Read the files. Raises UsageError naming the one that cannot be read, or holds something else."""
        certificate = _read(files.certificate, "certificate", _CERTIFICATE, "--tls-cert")
        key = _read(files.key, "private key", _KEY, "--tls-key")
        if b"ENCRYPTED" in key:
            raise UsageError(
                f"TLS key {files.key!r}: it is protected by a passphrase, which a server cannot type; "
                "name a key without one with --tls-key"
            )
        if files.client_ca is None:
            return cls(certificate, key)
        return cls(certificate, key, _read(files.client_ca, "certificate", _CERTIFICATE, "--tls-client-ca"))


def server_context(pem: Pem, files: TlsFiles) -> ssl.SSLContext:
    """The context for clients: TLS 1.2 and 1.3, HTTP/1.1 by ALPN, client certificates where there is a CA.

    Raises UsageError naming the files where they do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A client of TLS 1.2 could make us compute a new handshake over and over; 1.3 has none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        with _as_file(pem.certificate) as certificate, _as_file(pem.key) as key:
            context.load_cert_chain(certificate, key)
    except ssl.SSLError as problem:
        if problem.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(
                f"TLS key {files.key!r} does not belong to the certificate {files.certificate!r}; "
                "name a certificate and its own key with --tls-cert and --tls-key"
            ) from None
        raise UsageError(
            f"TLS certificate {files.certificate!r} with key {files.key!r}: they cannot be used "
            f"({problem.reason or 'not readable as PEM'}); name PEM files with --tls-cert and --tls-key"
        ) from None
    if pem.client_ca is not None:
        try:
            context.load_verify_locations(cadata=pem.client_ca.decode("ascii", "replace"))
        except ssl.SSLError as problem:
            raise UsageError(
                f"TLS client CA {files.client_ca!r}: its certificates cannot be used "
                f"({problem.reason or 'not readable as PEM'}); name a PEM file with --tls-client-ca"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Renewal:
    """Watches the files. `problem`: why their present state is not in force, '' while it is."""

    def __init__(self, files: TlsFiles, loaded: Seen) -> None:
        """`loaded`: the state that is in force."""
        self.problem = ""
        self._files = files
        self._settled = loaded  # the state that was read last, in force or refused
        self._last = loaded

    def look(self) -> tuple[Pem, ssl.SSLContext] | None:
        """What the files hold once they have changed and rest; None otherwise. Raises UsageError, once."""
        seen = self._files.seen()
        changed = seen != self._settled
        resting = seen == self._last
        self._last = seen
        if not (changed and resting):
            return None
        self._settled = seen
        try:
            pem = Pem.read(self._files)
            context = server_context(pem, self._files)
        except UsageError as problem:
            self.problem = str(problem)
            raise
        self.problem = ""
        return pem, context


class Spare:
    """The last good files, kept by the parent in memory for workers that start while the files are broken."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("accede-tls") if sys.platform == "linux" else -1

    def keep(self, pem: Pem) -> None:
        """Keep these."""
        if self.descriptor >= 0:
            data = msgspec.msgpack.encode(pem)
            os.pwrite(self.descriptor, data, 0)
            os.ftruncate(self.descriptor, len(data))

    def close(self) -> None:
        """Forget them."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


def spared(descriptor: int) -> Pem | None:
    """What the parent keeps; None where it keeps nothing."""
    if descriptor < 0:
        return None
    try:
        data = os.pread(descriptor, 3 * _LARGEST, 0)
        return msgspec.msgpack.decode(data, type=Pem)
    except (OSError, msgspec.MsgspecError):
        return None


def _read(path: str, what: str, mark: bytes, flag: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as problem:
        raise UsageError(
            f"TLS {what} {path!r}: {problem.strerror}; name a readable PEM file with {flag}"
        ) from None
    if mark not in data or len(data) > _LARGEST:
        raise UsageError(f"TLS {what} {path!r}: there is no {what} in it; name a PEM file with {flag}")
    return data


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, as secrets mounted from elsewhere are
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextmanager
def _as_file(data: bytes) -> Generator[str]:
    """A path under which OpenSSL can read `data`; in memory where the system can do that."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("accede-pem")
        try:
            os.pwrite(descriptor, data, 0)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # only its owner may read it
            file.write(data)
            file.flush()
            yield file.name
