"""What is kept of a body that killed the observer: which exchange it was, and its shape without content.

Written by the observer that follows, before it reads anything else, to FOLDER/poison-N.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from ...errors import WireError
from ..facts import Body, Flush, Pair, decode_flush
from ..marker import PAIR, Found, Marker
from .redaction import masked

KEPT: Final = 20  # reports; the oldest go first
_SHOWN: Final = 64 * 1024  # bytes of a body's shape
_ARMS: Final = ("stable", "candidate")


def look_back(marker: Marker, folder: Path) -> str:
    """Report on what the observer before this one was reading when it died; one line for the log, or ''.

    The marker is cleared first: if reading it kills this observer as well, the next one goes on without.
    """
    found = marker.found()
    marker.done()
    if found is None:
        return ""
    report = _report(found)
    which = f"the {'pair' if found.kind == PAIR else 'exchange'} {found.number}"
    arm = f" of {report['arm']}" if "arm" in report else ""
    try:
        path = _keep(report, folder)
    except OSError as problem:
        return f"the observer before this one died reading {which}{arm}; no report: {problem.strerror}"
    return f"the observer before this one died reading {which}{arm}; its shape is kept in {path}"


def _report(found: Found) -> dict[str, Any]:
    report: dict[str, Any] = {"kind": "pair" if found.kind == PAIR else "exchange", "number": found.number}
    try:
        flush = decode_flush(found.flush)
    except WireError:
        return report
    if found.kind == PAIR:
        for pair in flush.pairs:
            if pair.number == found.number:
                return {**report, **_of_pair(pair)}
        return report
    return {**report, **_of_exchange(flush, found.number)}


def _of_exchange(flush: Flush, number: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for fact in flush.facts:
        if fact.number == number:
            told = {"arm": _ARMS[fact.arm], "status": fact.status, "assigned_at": fact.assigned_at}
    for body in flush.bodies:
        if body.number == number:
            told |= _of_body(body)
    return told


def _of_body(body: Body) -> dict[str, Any]:
    return {
        "request": _shape(body.request, body.request_encoding),
        "response": _shape(body.response, body.response_encoding),
    }


def _of_pair(pair: Pair) -> dict[str, Any]:
    return {
        "assigned_at": pair.assigned_at,
        "request": _shape(pair.request, pair.request_encoding),
        "stable_response": _shape(pair.stable_response, pair.stable_encoding),
        "candidate_response": _shape(pair.shadow_response, pair.shadow_encoding),
    }


def _shape(body: bytes, encoding: str) -> dict[str, Any]:
    """Size and, of a body that is not compressed, its text with letters and digits made equal.

    No hash: with size and shape it would let somebody try what a short body said.
    """
    told: dict[str, Any] = {"bytes": len(body), "encoding": encoding[:64]}
    if not encoding:
        told["shape"] = masked(body[:_SHOWN]).decode("ascii")
    return told


def _keep(report: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = sorted(folder.glob("poison-*.json"), key=lambda path: path.stat().st_mtime)
    for old in kept[: max(0, len(kept) - KEPT + 1)]:
        old.unlink()
    numbers = [int(path.stem.partition("-")[2]) for path in kept if path.stem.partition("-")[2].isdigit()]
    path = folder / f"poison-{max(numbers, default=0) + 1}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    path.chmod(0o600)
    return path
