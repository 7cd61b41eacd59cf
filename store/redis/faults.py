"""What a server's errors mean to the user: one line each, with the place and the way out.

The client's own texts are not repeated: they may quote a command with its arguments. Only the first word of a
server's answer is, which is its kind.
"""

from __future__ import annotations

import re
from typing import Final

from redis import exceptions as redis_errors
from redis.sentinel import MasterNotFoundError

from ...errors import StoreError

# What the client raises. The last of the three is no RedisError, by its authors' oversight.
CLIENT_ERRORS: Final = (redis_errors.RedisError, OSError, redis_errors.RedisClusterException)

# First words of error answers -> what was found, and the way out.
_MEANING = {
    "NOAUTH": ("wants a password", "give user and password in the address or in ACCEDE_STORE_PASSWORD"),
    "WRONGPASS": ("refuses this user or password", "check both in the address and on the server"),
    "NOPERM": (
        "does not let this user do what a store needs",
        "give it the rights that docs/several-machines.md lists",
    ),
    "OOM": ("is out of memory", "raise its maxmemory, or remove what else it holds; nothing was written"),
    "READONLY": ("is a replica, which cannot write", "name the primary, or its Sentinels"),
    "MISCONF": (
        "cannot save to its disk and takes no writes",
        "free space on its disk, or mend it; see the server's log",
    ),
    "LOADING": ("is still reading its data after a start", "wait; it will be tried again"),
    "MASTERDOWN": ("is a replica without its primary", "wait for the failover, or mend the primary"),
    "CLUSTERDOWN": ("is a Cluster without all its slots", "bring the missing nodes back"),
    "NOREPLICAS": ("has fewer replicas than it must have to write", "bring the replicas back"),
    "BUSY": ("is busy with another's script", "wait, or end that script on the server"),
    "TRYAGAIN": ("is moving this service to another node", "wait; it will be tried again"),
    "WRONGTYPE": (
        "holds something else under a key of this store",
        "choose a prefix of its own: ?prefix=… in the address",
    ),
    "MOVED": ("is a node of a Cluster", "begin the address with redis+cluster://"),
}
_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (redis_errors.MovedError, "MOVED"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
    (redis_errors.AskError, "TRYAGAIN"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.OutOfMemoryError, "OOM"),
)
_REFUSED = ("AuthenticationError", "Authentication", "NOPERM", "NoPermission", "WRONGPASS")
_TLS = re.compile(r"SSL(?!Connection\b)")  # the name of a kind of connection is no finding
_UNKNOWN_COMMAND = ("does not know a command that a store needs", "use Valkey, or Redis 6.2 or newer")


def store_error(place: str, problem: Exception, *, unknown: bool = False) -> StoreError:
    """The error a user sees for one of the client's. `unknown`: a write may have happened all the same."""
    finding, way_out = _meaning(problem)
    more = "; whether the write was made is not known: read again" if unknown else ""
    return StoreError(f"store {place} {finding}: {way_out}{more}")


def _meaning(problem: Exception) -> tuple[str, str]:
    word = _first_word(problem)
    if word == "ERR" and "unknown command" in str(problem):
        return _UNKNOWN_COMMAND
    if "user executing the script" in str(problem):
        word = "NOPERM"
    for kind, known in _KINDS:
        if word not in _MEANING and isinstance(problem, kind):
            word = known
    return _MEANING[word] if word in _MEANING else _connecting(problem, word)


def _connecting(problem: Exception, word: str) -> tuple[str, str]:
    text = f"{problem} {problem.__cause__ or ''}"
    if isinstance(problem, MasterNotFoundError) and any(word in text for word in _REFUSED):
        return (
            "has Sentinels that want another user or password, or none",
            "give them with sentinel_user in the address and ACCEDE_SENTINEL_PASSWORD",
        )
    if "CERTIFICATE" in text or _TLS.search(text):
        return (
            "does not agree on TLS with this client",
            "check rediss:// and the address's ca, cert and key, and that the certificate names this host",
        )
    if isinstance(problem, redis_errors.TimeoutError | TimeoutError):
        return "does not answer in time", "check that it runs and that the network reaches it"
    if isinstance(problem, MasterNotFoundError):
        return "has no primary that its Sentinels know", "wait for the failover, or check the primary's name"
    if isinstance(problem, redis_errors.RedisClusterException):
        return "cannot be reached, or is no Cluster", "check that its nodes run, and the address"
    if isinstance(problem, redis_errors.ConnectionError | OSError):
        return "cannot be reached", "check that it runs, the address, and that the network reaches it"
    return f"refuses a command ({word or type(problem).__name__})", "see the server's log"


def _first_word(problem: Exception) -> str:
    told = getattr(problem, "status_code", None) or str(problem).split(" ", 1)[0].strip()
    return told if isinstance(told, str) and told.isupper() and told.isalpha() else ""
