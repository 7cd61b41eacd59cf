"""What must fit together in a service file, beyond each value by itself."""

from __future__ import annotations

import re
from typing import Final

from .answer_rules import check_told
from .body_rules import check_inputs, check_prediction, check_recording, check_slices
from .network import Override
from .network_rules import HOST, check_addresses, check_readiness
from .protocol_rules import check_told_apart
from .quantities import found
from .reading import Reading, near, piece
from .service import NAME_PATTERN, Match, Mirror, Version
from .unit_rules import check_unit
from .yaml import Data

_NAME: Final = re.compile(NAME_PATTERN)
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # goes into a path and a header
_VARIABLE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,127}")
_NEEDED: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "content-encoding", "content-type")
)
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, section 5.6.2: token
_SEGMENTS: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+|/")  # RFC 3986, section 3.3


def check_service(data: dict[str, Data], reading: Reading) -> None:
    """Report everything in a service file that does not fit together."""
    check_name(data.get("name"), reading)
    _check_match(data.get("match"), reading)
    _check_versions(data, reading)
    check_readiness(data.get("readiness"), reading)
    check_unit(data.get("unit"), reading)
    _check_mirror(data.get("mirror"), reading)
    _check_override(data.get("override"), reading)
    check_prediction(data.get("prediction"), data.get("protocol"), reading)
    check_told(data, reading)
    check_slices(data.get("slices"), reading)
    check_inputs(data.get("inputs"), reading)
    check_recording(data.get("recording"), reading)
    policy = data.get("policy")
    if isinstance(policy, str) and not (policy.isprintable() and 0 < len(policy) <= 1024):  # noqa: PLR2004
        reading.add(
            ("policy",), "allowed: the path of a policy file, or the name of one that ships with Accede"
        )


def check_name(name: Data, reading: Reading) -> None:
    """Report a name that commands and stores could not carry."""
    if isinstance(name, str) and not _NAME.fullmatch(name):
        allowed = "1 to 63 lower-case letters, digits and hyphens, not beginning with a hyphen"
        reading.add(("name",), f"found {found(name)}; allowed: {allowed}")


def _check_match(data: Data, reading: Reading) -> None:
    match = piece(Match, data)
    if match is None:
        return
    if match.path is None and match.host is None:
        reading.add(("match",), "matches nothing; give path, host or both")
    if match.path is not None and not _is_path(match.path):
        reading.add(
            ("match", "path"),
            f"found {found(match.path)}; allowed: whole segments, beginning with / and not ending with it, "
            "such as /v1/models/fraud",
        )
    if match.host is not None and not HOST.fullmatch(match.host):
        reading.add(
            ("match", "host"), f"found {found(match.host)}; allowed: a host name without port or wildcard"
        )


def _is_path(path: str) -> bool:
    return bool(_SEGMENTS.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def _check_versions(data: dict[str, Data], reading: Reading) -> None:
    versions = data.get("versions")
    if not isinstance(versions, dict):
        return
    if not versions:
        reading.add(("versions",), 'names no version; write for example {"42": {url: "http://tf-a:8501"}}')
    for name, value in versions.items():
        if not _VERSION.fullmatch(name):
            allowed = "1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit"
            reading.add(
                ("versions", name), f"found the version name {found(name)}; allowed: {allowed}", key=True
            )
        check_addresses(piece(Version, value), ("versions", name), reading)
    check_told_apart(versions, data.get("protocol"), reading)
    named = data.get("stable")
    if isinstance(named, str) and named not in versions and not reading.covers(("versions", named)):
        hint = near(named, versions)
        reading.add(
            ("stable",), f"found {found(named)}; {hint}allowed: a key of versions: {', '.join(versions)}"
        )


def _check_mirror(data: Data, reading: Reading) -> None:
    mirror = piece(Mirror, data)
    if mirror is None:
        return
    for index, name in enumerate(mirror.strip):
        if not _HEADER.fullmatch(name):
            reading.add(
                ("mirror", "strip", index),
                f"found {found(name)}; allowed: the name of a header, such as authorization",
            )
        elif name.lower() in _NEEDED:
            reading.add(("mirror", "strip", index), f"a copy without {name.lower()} is no request; remove it")


def _check_override(data: Data, reading: Reading) -> None:
    override = piece(Override, data)
    if override is not None and not _VARIABLE.fullmatch(override.token):
        # Not what was found: it may be the token itself.
        reading.add(
            ("override", "token"),
            "a token does not belong into a file; write where the controller finds it, such as "
            "env:ACCEDE_OVERRIDE_TOKEN",
        )
