"""What must fit together in how a service file says its model servers are reached: URLs, TLS, probes."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from .network import Readiness, Tls
from .quantities import found
from .reading import Reading, piece
from .service import Version
from .yaml import Data, KeyPath

HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
MAX_URLS: Final = 64  # of one version: every worker probes each of them and keeps connections to it

_PROBED: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,255}")  # RFC 3986, sections 3.3 and 3.4
_ALLOWED: Final = "allowed: http://host:port or https://host:port"


def check_addresses(version: Version | None, path: KeyPath, reading: Reading) -> None:
    """Report what is wrong with the URLs of a version, and with how https ones are verified."""
    if version is None:
        return
    if version.url is not None and version.urls:
        reading.add((*path, "urls"), "given beside url; keep one of both")
    elif not version.addresses:
        reading.add(path, "has no address; add url: http://host:port")
    elif len(version.urls) > MAX_URLS:
        reading.add((*path, "urls"), f"found {len(version.urls)} URLs; allowed: at most {MAX_URLS}")
    if version.url is not None:
        _check_url(version.url, (*path, "url"), reading)
    for index, url in enumerate(version.urls):
        _check_url(url, (*path, "urls", index), reading)
        if url in version.urls[:index]:
            reading.add((*path, "urls", index), "listed twice; remove one")
    if version.tls != Tls():
        if version.addresses and not any(url.startswith("https://") for url in version.addresses):
            reading.add(
                (*path, "tls"), "only https addresses are verified; write https://host:port, or remove it"
            )
        _check_tls(version.tls, (*path, "tls"), reading)


def _check_url(url: str, path: KeyPath, reading: Reading) -> None:
    """Report what is no plain http(s)://host:port, without showing it: it may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        reading.add(path, f"not a URL with a valid host and port; {_ALLOWED}")
        return
    if parts.scheme not in {"http", "https"} or "\\" in url or any(char.isspace() for char in url):
        reading.add(path, f"not an http URL; {_ALLOWED}")
    elif "@" in parts.netloc:
        reading.add(path, f"credentials do not belong into a URL; {_ALLOWED}")
    elif parts.path or "?" in url or "#" in url:
        only = f"{parts.scheme}://{parts.netloc[:80]}"
        reading.add(path, f"a path, query or fragment follows the address; write only {only}")
    elif not HOST.fullmatch(f"[{host}]" if ":" in host else host) or port == 0 or parts.netloc.endswith(":"):
        reading.add(path, f"not a URL with a valid host and port; {_ALLOWED}")


def _check_tls(tls: Tls, path: KeyPath, reading: Reading) -> None:
    for key in ("ca", "certificate", "key"):
        file: str | None = getattr(tls, key)
        if file is not None and not (file.startswith("/") and file.isprintable()):
            reading.add(
                (*path, key),
                f"found {found(file)}; allowed: a whole path on the router's host, "
                f"such as /etc/tls/{key}.pem",
            )
    if tls.ca is not None and not tls.verify:
        reading.add((*path, "ca"), "with verify: false nothing is compared with it; remove one of both")
    if tls.key is not None and tls.certificate is None:
        reading.add((*path, "key"), "belongs to no certificate; add certificate, or remove the key")
    if tls.server_name is not None and not HOST.fullmatch(tls.server_name):
        reading.add(
            (*path, "server_name"), f"found {found(tls.server_name)}; allowed: a host name without port"
        )


def check_readiness(data: Data, reading: Reading) -> None:
    """Report a probe that could not be sent, or would not be."""
    readiness = piece(Readiness, data)
    if readiness is None or readiness.path is None:
        return
    if not _PROBED.fullmatch(readiness.path):
        reading.add(
            ("readiness", "path"),
            f"found {found(readiness.path)}; allowed: a path beginning with /, such as /healthz",
        )
    if not readiness.probe:
        reading.add(("readiness", "path"), "with probe: false nothing is asked; remove one of both")
