"""The recorder: a sample of traffic as JSON Lines on the router's disk, only fields that the file allows.

The store is often on the same disk, and evidence matters more than recordings. So they stop while less than
a reserve is free, and go on when it is free again.

`FOLDER/SERVICE/00000001.jsonl`, one object a line, oldest first. A file is closed at an eighth of the
service's `max_bytes` and the oldest are deleted, so that all of them together stay below it. A disk that
is full or gone stops recording for a while and is said once: nothing else depends on it.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ...errors import AccedeError
from ...store.routes import RouteRecording
from ..facts import Body, Ending, Fact, Pair
from .formats import Format
from .redaction import AllowList

SHARES: Final = 8  # files that a service's bytes are divided into: at most an eighth is lost at once
_SMALLEST: Final = 16 * 1024  # bytes of a file; below it rotation would cost more than it keeps
_LONGEST: Final = 64 * 1024  # bytes of a line
_AGAIN: Final = 10.0  # seconds until a disk that failed is tried again
_KEY: Final = "recording.key"
_RESERVE: Final = 256 * 2**20  # bytes of the disk that recordings leave free, or this
_RESERVED: Final = 0.1  # share of a small one


def recording_key(folder: Path) -> bytes:
    """The key of hashes, made once and readable by this user only. Raises AccedeError."""
    path = folder / _KEY
    try:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            key = secrets.token_bytes(32)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
            return key
    except OSError as problem:
        raise AccedeError(
            f"the key of recorded hashes cannot be read or made at {path}: {problem.strerror}; "
            "nothing is recorded until it can"
        ) from problem


def room(folder: Path) -> None:
    """Raises OSError where the disk of `folder` has no more free than its reserve."""
    disk = os.statvfs(folder)
    size = disk.f_frsize or disk.f_bsize
    if disk.f_bavail * size < min(_RESERVE, _RESERVED * disk.f_blocks * size):
        raise OSError(
            errno.ENOSPC, "its disk is nearly full, the rest is kept for evidence; free space on it"
        )


class Log:
    """The files of one service. `lost`: lines that could not be written."""

    def __init__(self, folder: Path, max_bytes: int, complain: Callable[[str], None]) -> None:
        self.lost = 0
        self._folder = folder
        self._max = max_bytes
        self._each = max(_SMALLEST, max_bytes // SHARES)
        self._complain = complain
        self._file = -1  # descriptor
        self._size = 0
        self._again = 0.0
        self._failed = False

    def write(self, line: bytes, now: float) -> None:
        """Append one line (without its end)."""
        if now < self._again or len(line) >= min(_LONGEST, self._each):
            self.lost += 1
            return
        try:
            if self._file < 0 or self._size + len(line) >= self._each:
                self._next(len(line))
            room(self._folder)
            rest = line + b"\n"
            while rest:  # unbuffered: what a failing disk refused must not be written later
                rest = rest[os.write(self._file, rest) :]
            self._size += len(line) + 1
            self._failed = False
        except OSError as problem:
            self._fail(problem, now)

    def close(self) -> None:
        """Close the file being written."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _next(self, room: int) -> None:
        """Begin the next file: a new one at every start, so that a line cut by a crash stays the last."""
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sorted(self._folder.glob("*.jsonl"))
        number = int(files[-1].stem) + 1 if files and files[-1].stem.isdigit() else 1
        sizes = {path: path.stat().st_size for path in files}
        while sizes and sum(sizes.values()) + max(self._each, room) > self._max:
            oldest = next(iter(sizes))
            oldest.unlink()
            del sizes[oldest]
        self._size = 0
        self._file = os.open(
            self._folder / f"{number:08d}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    def _fail(self, problem: OSError, now: float) -> None:
        self.lost += 1
        self._again = now + _AGAIN
        if self._file >= 0:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)  # no half line stays
            with suppress(OSError):
                self.close()
        if not self._failed:
            self._failed = True
            self._complain(
                f"recording to {self._folder} is interrupted: {problem.strerror}; tried again every "
                f"{_AGAIN:g} s, nothing else is affected"
            )


class Recording:
    """What is recorded of one service in one epoch."""

    def __init__(
        self, service: str, rollout: str, epoch: int, rule: RouteRecording, form: Format, log: Log, key: bytes
    ) -> None:
        self.sample = rule.sample
        self._named: dict[str, Any] = {"service": service, "rollout": rollout, "epoch": epoch}
        self._form = form
        self._log = log
        self._request = AllowList(rule.request, rule.hashed, key, form.feature)
        self._response = AllowList(rule.response, rule.hashed, key, form.feature)

    def exchange(self, fact: Fact, body: Body | None, predictions: list[Any], now: float) -> None:
        """Record one exchange. `body` None: it was not captured. Never raises."""
        try:
            self._write(self._exchange(fact, body, predictions), now)
        except Exception:  # noqa: BLE001  (a stranger's body must not stop the evidence)
            self._log.lost += 1

    def _exchange(self, fact: Fact, body: Body | None, predictions: list[Any]) -> dict[str, Any]:
        line: dict[str, Any] = {
            "v": 1, "kind": "exchange", "at": fact.assigned_at, **self._named,
            "arm": _ARMS[fact.arm], "served": _ARMS[fact.served], "ending": Ending(fact.ending).name.lower(),
            "status": fact.status, "latency": fact.latency, "unit": fact.unit, "excluded": fact.excluded,
            "predictions": predictions,
        }  # fmt: skip
        if body is not None:
            line["request_id"] = body.request_id
            line["request"] = self._fields(
                self._request, body.request, body.request_encoding, body.request_head
            )
            line["response"] = self._fields(
                self._response, body.response, body.response_encoding, body.response_head
            )
        return line

    def pair(self, pair: Pair, stable: list[Any], shadow: list[Any], now: float) -> None:
        """Record one mirrored request with both predictions. Never raises."""
        try:
            self._write(self._pair(pair, stable, shadow), now)
        except Exception:  # noqa: BLE001  (see above)
            self._log.lost += 1

    def _pair(self, pair: Pair, stable: list[Any], shadow: list[Any]) -> dict[str, Any]:
        return {
                "v": 1, "kind": _KINDS[pair.kind], "at": pair.assigned_at, **self._named,
                "stable": {"status": pair.stable_status, "latency": pair.stable_latency,
                           "ending": Ending(pair.stable_ending).name.lower(), "predictions": stable},
                "candidate": {"status": pair.shadow_status, "latency": pair.shadow_latency,
                              "ending": Ending(pair.shadow_ending).name.lower(), "predictions": shadow},
                "request": self._fields(
                    self._request, pair.request, pair.request_encoding, pair.request_head),
        }  # fmt: skip

    def _fields(self, allowed: AllowList, body: bytes, encoding: str, head: int) -> dict[str, Any]:
        return allowed.of(self._form.request(body, encoding, head))

    def _write(self, line: dict[str, Any], now: float) -> None:
        self._log.write(msgspec.json.encode(line), now)


_ARMS: Final = ("stable", "candidate")
_KINDS: Final = ("pair", "pair-back", "pair-floor")


class Recorder:
    """All recordings of one observer."""

    def __init__(self, folder: Path, complain: Callable[[str], None]) -> None:
        self._folder = folder
        self._complain = complain
        self._logs: dict[str, tuple[int, Log]] = {}
        self._key: bytes | None = None
        self._keyless = False

    def recording(
        self, service: str, rollout: str, epoch: int, rule: RouteRecording, form: Format
    ) -> Recording | None:
        """What records this epoch; None where nothing is to be recorded, or cannot be."""
        if rule.sample <= 0:
            return None
        if self._key is None:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._key = recording_key(self._folder)
            except (AccedeError, OSError) as problem:
                if not self._keyless:
                    self._keyless = True
                    self._complain(str(problem))
                return None
        known = self._logs.get(service)
        if known is None or known[0] != rule.max_bytes:
            if known is not None:
                known[1].close()
            log = Log(self._folder / service, rule.max_bytes, self._complain)
            known = self._logs[service] = (rule.max_bytes, log)
        return Recording(service, rollout, epoch, rule, form, known[1], self._key)

    def close(self) -> None:
        """Close every file."""
        for _, log in self._logs.values():
            log.close()
