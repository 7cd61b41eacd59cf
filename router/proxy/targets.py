"""Which calls predict, and how a protocol's URL names the version.

Only prediction calls are split, mirrored and analysed. A URL that pins a version is answered by that
version; everything else is stable's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# TF Serving's REST API: POST …/v1/models/M[/versions/N|/labels/L]:(predict|classify|regress)
_TENSORFLOW = re.compile(
    r"(.*/v1/models/[^/:?]+)(?:/versions/([0-9]+)|/labels/([^/:?]+))?:(predict|classify|regress)"
)
_KSERVE = re.compile(r".*/v1/models/[^/:?]+:predict")
_PINNED = re.compile(r".*/v1/models/[^/:?]+/(?:versions/([0-9]+)|labels/[^/:?]+)(?:/metadata)?")


class CallKind(NamedTuple):
    """What a request is. `pinned`: version named by the URL. `prefix`, `verb`: of a URL to rewrite."""

    predicts: bool
    pinned: str | None = None
    prefix: str = ""
    verb: str = ""


_OTHER = CallKind(predicts=False)


def call_kind(protocol: str, method: str, path: str) -> CallKind:
    """Classify a request of `protocol` by method and path (without the query)."""
    if protocol == "tensorflow-serving":
        return _tensorflow(method, path)
    if method != "POST":
        return _OTHER
    if protocol == "kserve-v1":
        return CallKind(predicts=_KSERVE.fullmatch(path) is not None)
    return CallKind(predicts=True)


def _tensorflow(method: str, path: str) -> CallKind:
    found = _TENSORFLOW.fullmatch(path)
    if found is None or method != "POST":
        pinned = _PINNED.fullmatch(path) if found is None else found
        version = None if pinned is None else pinned.group(1 if found is None else 2)
        return CallKind(predicts=False, pinned=version)
    prefix, version, label, verb = found.groups()
    if version is not None or label is not None:
        return CallKind(predicts=False, pinned=version)
    return CallKind(predicts=True, prefix=prefix, verb=verb)


def addressed(kind: CallKind, path: str, version: str) -> str:
    """The path to send to `version`: rewritten where the URL addresses it and the version is a number."""
    if kind.verb and version.isascii() and version.isdigit():
        return f"{kind.prefix}/versions/{version}:{kind.verb}"
    return path
