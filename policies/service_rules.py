"""What must fit together in a service file, beyond each value by itself."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from .quantities import Comparison, found
from .reading import Reading, near, piece
from .service import NAME_PATTERN, Match, Prediction, Slice, Unit, Version
from .yaml import Data, KeyPath

MAX_SLICES: Final = 20  # more cannot be proven with one error probability
MAX_GROUPS: Final = 64  # in one slice; evidence grows with every group

_NAME: Final = re.compile(NAME_PATTERN)
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # goes into a path and a header
_SLICE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, section 5.6.2: token
_SEGMENTS: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+|/")  # RFC 3986, section 3.3
_ACCESSOR: Final = re.compile(
    r"(?:[^\s.\[\]\"']+|\[(?:0|[1-9][0-9]{0,5}|\*)\])(?:\.[^\s.\[\]\"']+|\[(?:0|[1-9][0-9]{0,5}|\*)\]){0,31}"
)
_ONE_URL: Final = 1


def check_service(data: dict[str, Data], reading: Reading) -> None:
    """Report everything in a service file that does not fit together."""
    check_name(data.get("name"), reading)
    _check_match(data.get("match"), reading)
    _check_versions(data, reading)
    _check_unit(data.get("unit"), reading)
    _check_prediction(data.get("prediction"), reading)
    _check_slices(data.get("slices"), reading)
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
    if match.host is not None and not _HOST.fullmatch(match.host):
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
        _check_addresses(piece(Version, value), ("versions", name), reading)
    named = data.get("stable")
    if isinstance(named, str) and named not in versions and not reading.covers(("versions", named)):
        hint = near(named, versions)
        reading.add(
            ("stable",), f"found {found(named)}; {hint}allowed: a key of versions: {', '.join(versions)}"
        )


def _check_addresses(version: Version | None, path: KeyPath, reading: Reading) -> None:
    if version is None:
        return
    if version.url is not None and version.urls:
        reading.add((*path, "urls"), "given beside url; keep one of both")
    elif not version.addresses:
        reading.add(path, "has no address; add url: http://host:port")
    elif len(version.urls) > _ONE_URL:
        reading.add(
            (*path, "urls"), "more than one URL is not supported yet; put a balancer in front and name it"
        )
    if version.url is not None:
        _check_url(version.url, (*path, "url"), reading)
    for index, url in enumerate(version.urls):
        _check_url(url, (*path, "urls", index), reading)


def _check_url(url: str, path: KeyPath, reading: Reading) -> None:
    """Report what is no plain http://host:port, without showing it: it may hold a password."""
    allowed = "allowed: http://host:port"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        reading.add(path, f"not a URL with a valid host and port; {allowed}")
        return
    if parts.scheme == "https":
        reading.add(path, "https to a model server is not supported yet; supported: http://host:port")
    elif parts.scheme != "http" or "\\" in url or any(char.isspace() for char in url):
        reading.add(path, f"not an http URL; {allowed}")
    elif "@" in parts.netloc:
        reading.add(path, f"credentials do not belong into a URL; {allowed}")
    elif parts.path or "?" in url or "#" in url:
        reading.add(
            path, f"a path, query or fragment follows the address; write only http://{parts.netloc[:80]}"
        )
    elif not _HOST.fullmatch(f"[{host}]" if ":" in host else host) or port == 0 or parts.netloc.endswith(":"):
        reading.add(path, f"not a URL with a valid host and port; {allowed}")


def _check_unit(data: Data, reading: Reading) -> None:
    if isinstance(data, dict) and "header" not in data:
        reading.add(("unit",), "has no header; write {header: x-user-id}, or unit: request")
    unit = piece(Unit, data)
    if unit is not None and unit.header is not None and not _HEADER.fullmatch(unit.header):
        reading.add(
            ("unit", "header"),
            f"found {found(unit.header)}; allowed: the name of a header, such as x-user-id",
        )


def _check_accessor(text: str, path: KeyPath, reading: Reading) -> None:
    if not _ACCESSOR.fullmatch(text):
        example = "such as predictions[0].score or instances[*].sex"
        reading.add(
            path, f"found {found(text)}; allowed: keys joined by '.', with [0] or [*] for lists, {example}"
        )


def _check_prediction(data: Data, reading: Reading) -> None:
    prediction = piece(Prediction, data)
    if prediction is None:
        return
    if prediction.path is not None:
        _check_accessor(prediction.path, ("prediction", "path"), reading)
    is_number = prediction.type == "number"
    if prediction.range is not None:
        low, high = prediction.range
        if not is_number:
            reading.add(
                ("prediction", "range"), "only numbers have a range; remove it, or write type: number"
            )
        elif low >= high:
            reading.add(
                ("prediction", "range"), f"found {low:g} and {high:g}; the first must be less than the second"
            )
    if prediction.agree_within is not None and not is_number:
        reading.add(("prediction", "agree_within"), "labels agree when they are equal; remove the key")
    if prediction.selected is not None:
        _check_selected(prediction.selected, is_number=is_number, reading=reading)


def _check_selected(selected: Comparison, *, is_number: bool, reading: Reading) -> None:
    shown = found(str(selected))
    if is_number and isinstance(selected.operand, str):
        message = f'found {shown}; a number is compared with a number, such as ">= 0.5"'
        reading.add(("prediction", "selected"), message)
    elif not is_number and selected.operator not in {"==", "!="}:
        message = f'found {shown}; labels are compared with == or !=, such as "== approve"'
        reading.add(("prediction", "selected"), message)


def _check_slices(data: Data, reading: Reading) -> None:
    if not isinstance(data, dict):
        return
    if len(data) > MAX_SLICES:
        reading.add(("slices",), f"found {len(data)} slices; allowed: at most {MAX_SLICES}")
    for name, value in data.items():
        path: KeyPath = ("slices", name)
        if not _SLICE.fullmatch(name):
            allowed = "1 to 63 lower-case letters, digits, '-' and '_'"
            reading.add(path, f"found the slice name {found(name)}; allowed: {allowed}", key=True)
        if reading.touches(path):
            continue
        one = piece(Slice, value)
        if one is not None:
            _check_slice(one, path, reading)


def _check_slice(one: Slice, path: KeyPath, reading: Reading) -> None:
    if one.path is None:
        reading.add((*path, "path"), "this key is required; add it")
    else:
        _check_accessor(one.path, (*path, "path"), reading)
    if bool(one.values) == bool(one.bins):
        reading.add(path, "give either values (of text) or bins (edges of a number)")
        return
    if one.bins:
        _check_bins(one, path, reading)
        return
    if not 2 <= len(one.values) <= MAX_GROUPS:  # noqa: PLR2004  (one group has nothing to differ from)
        reading.add((*path, "values"), f"found {len(one.values)} groups; allowed: 2 to {MAX_GROUPS}")
    for index, value in enumerate(one.values):
        if value in one.values[:index]:
            reading.add((*path, "values", index), f"{found(value)} is listed twice; remove one")
        if value == "other":
            reading.add(
                (*path, "values", index), "'other' is the group of all values that are not listed; rename it"
            )
    if one.reference is not None and one.reference not in one.values:
        hint = near(one.reference, one.values)
        reading.add(
            (*path, "reference"),
            f"found {found(one.reference)}; {hint}allowed: one of {', '.join(one.values)}",
        )


def _check_bins(one: Slice, path: KeyPath, reading: Reading) -> None:
    if not 2 <= len(one.bins) <= MAX_GROUPS:  # noqa: PLR2004
        reading.add((*path, "bins"), f"found {len(one.bins)} edges; allowed: 2 to {MAX_GROUPS}")
    for index, (left, right) in enumerate(zip(one.bins, one.bins[1:], strict=False), start=1):
        if left >= right:
            reading.add((*path, "bins", index), f"found {right:g} after {left:g}; edges must grow")
    if one.reference is not None:
        reading.add((*path, "reference"), "a reference among bins is not supported yet; remove the key")
