"""What model servers say of their health in a body.

Apart from `readiness`, because a compiled module does not keep the annotations of msgspec's records
(docs/decisions/0009).
"""

from __future__ import annotations

from typing import Final

import msgspec


class _Loaded(msgspec.Struct):
    version: str | int = ""
    state: str = ""


class _Listed(msgspec.Struct):
    model_version_status: list[_Loaded] = []


class _Said(msgspec.Struct):
    ready: bool | str | None = None


_listed = msgspec.json.Decoder(_Listed)
_said = msgspec.json.Decoder(_Said)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def available(body: bytes, version: str) -> bool:
    """Whether TensorFlow Serving's list has `version` as AVAILABLE; any one where it is no number."""
    try:
        loaded = _listed.decode(body).model_version_status
    except _UNREADABLE:
        return False
    numbered = version.isascii() and version.isdigit()
    return any(one.state == "AVAILABLE" and (not numbered or str(one.version) == version) for one in loaded)


def not_unready(body: bytes) -> bool:
    """Whether KServe's answer says ready, or nothing: servers write true, "True" or leave it out."""
    try:
        said = _said.decode(body).ready
    except _UNREADABLE:
        return True  # the status has decided
    return said is None or str(said).lower() == "true"
