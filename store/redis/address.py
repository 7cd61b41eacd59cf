"""What an address of a Redis or Valkey store says. Pure: nothing is looked up or connected to.

redis://[user[:password]@]host[:port][/database]            one server; rediss://: over TLS
redis+sentinel://[…@]host[:port],host[:port]/name[/database]  whoever is the primary of `name`
redis+cluster://[…@]host[:port],host[:port]                 a Cluster
unix:///path                                                one server on this machine

`valkey` may stand for `redis`. After `?`, joined by `&`:

prefix      begins every key, for several installations on one server (accede)
replicas    how many replicas must have every decision before it counts. Default: 1 while there are any
ca, cert, key     PEM files of TLS: who signed the server's certificate, and what this client shows
database    of a unix socket
sentinel_user, sentinel_password     that the Sentinels ask for; none by default
sentinel_tls                         yes or no: of the Sentinels, which otherwise speak what the server speaks
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec

from ...errors import UsageError

SCHEMES: Final = frozenset(
    f"{name}{kind}"
    for name in ("redis", "rediss", "valkey", "valkeys")
    for kind in ("", "+sentinel", "+cluster")
) | {"unix"}

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_HIGHEST_PORT: Final = 65535
_SENTINEL_PASSWORD: Final = "sentinel_password"  # noqa: S105  (the option's name)
_SENTINELS: Final = ("sentinel_user", _SENTINEL_PASSWORD, "sentinel_tls")
_OPTIONS: Final = ("prefix", "replicas", "ca", "cert", "key", "database", *_SENTINELS)
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

Kind = Literal["single", "sentinel", "cluster", "unix"]


class Address(msgspec.Struct, frozen=True):
    """One store. `hosts`: host and port, several of Sentinels and Clusters. `name`: of the primary there.

    `replicas` None: one while there are any. `place` is what messages call it: never a credential.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    name: str = ""
    database: int = 0
    tls: bool = False
    user: str = ""
    password: str = ""
    prefix: str = "accede"
    replicas: int | None = None
    ca: str = ""
    cert: str = ""
    key: str = ""
    sentinel_user: str = ""
    sentinel_password: str = ""
    sentinel_tls: bool = False

    @property
    def place(self) -> str:
        """Where the store is, for messages and logs."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        where = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.hosts)
        if self.kind == "sentinel":
            return f"{self.name} at sentinel {where}"
        return f"cluster {where}" if self.kind == "cluster" else where


def parse(address: str, password: str = "", sentinel_password: str = "") -> Address:
    """The Address of a URL. The passwords count where the URL has none.

    Raises UsageError, which never repeats user information.
    """
    parts = _split(address)
    if parts.scheme not in SCHEMES:
        raise UsageError(
            f"store address has scheme {parts.scheme!r}: allowed are redis, rediss, valkey and valkeys, "
            "alone or with +sentinel or +cluster after it, and unix"
        )
    scheme, _, kind = parts.scheme.partition("+")
    options = _options(parts)
    user, secret = _credentials(parts)
    shared = {
        "tls": scheme in {"rediss", "valkeys"},
        "user": user,
        "password": secret or password,
        "prefix": _prefix(options.get("prefix", "accede")),
        "replicas": _number("replicas", options["replicas"]) if "replicas" in options else None,
        **{name: options.get(name, "") for name in ("ca", "cert", "key")},
    }
    shared |= _sentinels(kind, options, sentinel_password, tls=bool(shared["tls"]))
    if not (shared["tls"] or shared["sentinel_tls"]) and any(shared[name] for name in ("ca", "cert", "key")):
        raise UsageError("store address: ca, cert and key are for TLS; begin it with rediss://")
    if bool(shared["cert"]) != bool(shared["key"]):
        raise UsageError("store address: cert and key belong together; give both or neither")
    made = _placed(scheme, kind, parts, options)
    return msgspec.structs.replace(made, **shared)


def _placed(scheme: str, kind: str, parts: SplitResult, options: dict[str, str]) -> Address:
    path = [unquote(part) for part in parts.path.split("/")[1:]]
    if scheme == "unix":
        if parts.netloc.rpartition("@")[2] or len(parts.path) <= 1:
            raise UsageError("a unix store address is unix:///path: three slashes, an absolute path")
        return Address(
            "unix", path=unquote(parts.path), database=_number("database", options.get("database", "0"))
        )
    if "database" in options:
        raise UsageError("store address: database is for unix:///path; elsewhere it follows the host: /3")
    hosts = _hosts(parts, _SENTINEL_PORT if kind == "sentinel" else _PORT)
    if kind == "sentinel":
        if not path or not path[0] or len(path) > 2:  # noqa: PLR2004  (name and database)
            raise UsageError("a sentinel address ends with the primary's name: …://host:port,host:port/name")
        return Address("sentinel", hosts, name=path[0], database=_database(path[1:]))
    if kind == "cluster":
        if any(path):
            raise UsageError("a cluster has one database; leave out what follows the hosts")
        return Address("cluster", hosts)
    if len(hosts) > 1:
        raise UsageError(
            "a store address with several hosts begins with redis+cluster:// or redis+sentinel://"
        )
    return Address("single", hosts, database=_database(path))


def without_secret(address: str) -> tuple[str, str]:
    """The address without the server's password, and the password ('' where it has none)."""
    head, mark, rest = address.partition("://")
    info, at, place = rest.partition("/")[0].rpartition("@")
    user, colon, secret = info.partition(":")
    if not at or not colon:
        return address, ""
    return f"{head}{mark}{user}@{place}{rest[len(info) + 1 + len(place) :]}", unquote(secret)


def without_sentinel_secret(address: str) -> tuple[str, str]:
    """The address without the Sentinels' password, and the password ('' where it has none)."""
    head, mark, query = address.partition("?")
    parts = query.split("&")
    kept = [part for part in parts if unquote(part.partition("=")[0]) != _SENTINEL_PASSWORD]
    secret = dict(parse_qsl(query)).get(_SENTINEL_PASSWORD, "")
    return (head + (mark if kept else "") + "&".join(kept) if secret else address), secret


def _sentinels(kind: str, options: dict[str, str], password: str, *, tls: bool) -> dict[str, str | bool]:
    """What the address says of its Sentinels."""
    if kind != "sentinel":
        for name in _SENTINELS:
            if name in options:
                raise UsageError(f"store address: {name} is for redis+sentinel:// addresses")
        return {"sentinel_tls": False}
    told = options.get("sentinel_tls", "yes" if tls else "no")
    if told not in {"yes", "no"}:
        raise UsageError("store address: sentinel_tls is yes or no")
    return {
        "sentinel_user": options.get("sentinel_user", ""),
        "sentinel_password": options.get(_SENTINEL_PASSWORD, "") or password,
        "sentinel_tls": told == "yes",
    }


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
    except ValueError:
        raise UsageError("the store address is no URL; one is redis://host:6379/0") from None
    if parts.fragment:
        raise UsageError("store address: a # in a password or an option is written %23")
    return parts


def _hosts(parts: SplitResult, port: int) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for one in parts.netloc.rpartition("@")[2].split(","):
        try:
            split = urlsplit(f"//{one}")
            host, given = split.hostname, split.port
        except ValueError:
            host, given = None, None
        if not host:
            raise UsageError(
                "store address: it names no host, or a port that does not exist; one is redis://host:6379/0"
            )
        found.append((host, port if given is None else given))
    return tuple(found)


def _credentials(parts: SplitResult) -> tuple[str, str]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def _options(parts: SplitResult) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            known = quote(name, safe="")[:40]
            raise UsageError(f"store address: no option {known!r}; there are {', '.join(_OPTIONS)}")
        if not value:
            raise UsageError(f"store address: option {name} has no value")
        found[name] = value
    return found


def _prefix(given: str) -> str:
    if not _PREFIX.fullmatch(given):
        raise UsageError("store address: prefix has 1 to 64 letters, digits, dots, dashes or underscores")
    return given


def _database(path: list[str]) -> int:
    if len(path) > 1:
        raise UsageError("store address: after the host comes the number of a database only: /0")
    return _number("the database", path[0]) if path and path[0] else 0


def _number(what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > _HIGHEST_PORT:
        raise UsageError(f"store address: {what} must be a small whole number")
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
