"""What must fit together where a service file speaks of bodies: predictions, slices, inputs, recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .groups import BETWEEN, POOLED, groups_of_slice, named_groups
from .protocols import PROTOCOLS, Spoken
from .quantities import Comparison, found
from .reading import Reading, near, piece
from .service import Input, Prediction, Recording, Slice
from .yaml import Data, KeyPath

MAX_SLICES: Final = 20  # more cannot be proven with one error probability
MAX_GROUPS: Final = 64  # in one slice; evidence grows with every group
MAX_CROSSED: Final = 4  # slices; their combinations are soon too small to prove anything of
MAX_INPUTS: Final = 32  # features; a router keeps a sketch of each for every arm
MAX_RECORDED: Final = 64  # fields of a request or an answer; an allow list is short, or it is none

_SLICE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ACCESSOR: Final = re.compile(
    r"(?:[^\s.\[\]\"']+|\[(?:0|[1-9][0-9]{0,5}|\*)\])(?:\.[^\s.\[\]\"']+|\[(?:0|[1-9][0-9]{0,5}|\*)\]){0,31}"
)
_ROOT: Final = re.compile(r"[^.\[]*")  # the first key of such a path


def check_accessor(text: str, path: KeyPath, reading: Reading) -> None:
    """Report what is no path into a body."""
    if not _ACCESSOR.fullmatch(text):
        example = "such as predictions[0].score or instances[*].sex"
        reading.add(
            path, f"found {found(text)}; allowed: keys joined by '.', with [0] or [*] for lists, {example}"
        )


# Predictions that are compared as they are: they have no mean, no distribution and no share.
UNSCORED: Final = frozenset({"text", "labels", "vector"})
_PLURALS: Final = {"label": "labels", "labels": "labels", "text": "texts", "vector": "vectors"}
_FARTHEST: Final = 2.0  # the cosine distance of opposite vectors


def check_prediction(data: Data, protocol: Data, reading: Reading) -> None:
    """Report what predictions of the protocol cannot be."""
    prediction = piece(Prediction, data)
    if prediction is None:
        return
    if prediction.path is not None:
        check_accessor(prediction.path, ("prediction", "path"), reading)
    spoken = PROTOCOLS.get(protocol) if isinstance(protocol, str) else None
    if data is not None and spoken is not None:
        _check_spoken(prediction, str(protocol), spoken, reading)
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
    if prediction.agree_within is not None and prediction.type == "vector":
        if prediction.agree_within > _FARTHEST:
            reading.add(
                ("prediction", "agree_within"),
                f"found {prediction.agree_within:g}; a cosine distance is 0 to {_FARTHEST:g}, such as 0.05",
            )
    elif prediction.agree_within is not None and not is_number:
        reading.add(
            ("prediction", "agree_within"),
            f"{_PLURALS[prediction.type]} agree when they are equal; remove the key",
        )
    if prediction.selected is not None and prediction.type in UNSCORED:
        reading.add(
            ("prediction", "selected"),
            f"found {found(str(prediction.selected))}; {_PLURALS[prediction.type]} are not selected: remove "
            "it, or write type: number or type: label",
        )
    elif prediction.selected is not None:
        _check_selected(prediction.selected, is_number=is_number, reading=reading)


def _check_spoken(prediction: Prediction, protocol: str, spoken: Spoken, reading: Reading) -> None:
    """Report a path or type that answers of the protocol cannot have."""
    if prediction.path is None and not spoken.predicts_at:
        example = "$ is the whole answer" if protocol == "torchserve" else "such as result.score"
        example = "such as [*][0] for CSV" if protocol == "sagemaker" else example
        reading.add(
            ("prediction", "path"),
            f"this key is required with protocol {protocol}, which does not say where predictions stand; "
            f"add it, {example}",
        )
    if prediction.path is not None and spoken.roots:
        first = _ROOT.match(prediction.path)
        if first is not None and first[0] not in spoken.roots:
            reading.add(
                ("prediction", "path"),
                f"found {found(prediction.path)}; an answer of {protocol} has its predictions below "
                f"{' or '.join(spoken.roots)}; without the key it is {spoken.predicts_at}",
            )
    if prediction.type not in spoken.types:
        reading.add(
            ("prediction", "type"),
            f"found {found(prediction.type)}; with protocol {protocol} allowed: {', '.join(spoken.types)}",
        )


def _check_selected(selected: Comparison, *, is_number: bool, reading: Reading) -> None:
    shown = found(str(selected))
    if is_number and isinstance(selected.operand, str):
        message = f'found {shown}; a number is compared with a number, such as ">= 0.5"'
        reading.add(("prediction", "selected"), message)
    elif not is_number and selected.operator not in {"==", "!="}:
        message = f'found {shown}; labels are compared with == or !=, such as "== approve"'
        reading.add(("prediction", "selected"), message)


def check_slices(data: Data, reading: Reading) -> None:
    """Report slices whose groups do not fit."""
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
        if one is not None and one.cross:
            _check_cross(name, one, data, reading)
        elif one is not None:
            _check_slice(one, path, reading)


def _check_cross(name: str, one: Slice, data: dict[str, Data], reading: Reading) -> None:
    path: KeyPath = ("slices", name)
    for key, given in (
        ("path", one.path), ("values", one.values), ("bins", one.bins), ("from", one.source == "labels"),
    ):  # fmt: skip
        if given:
            reading.add((*path, key), "a crossed slice has the groups of its parts; remove the key", key=True)
    slices = {known: parsed for known, each in data.items() if (parsed := piece(Slice, each)) is not None}
    plain = [known for known, each in slices.items() if not each.cross and each.source == "request"]
    if not 2 <= len(one.cross) <= MAX_CROSSED:  # noqa: PLR2004  (a slice is not crossed with nothing)
        reading.add((*path, "cross"), f"found {len(one.cross)} slices; allowed: 2 to {MAX_CROSSED}")
    _check_distinct(one.cross, (*path, "cross"), reading)
    for index, part in enumerate(one.cross):
        here = (*path, "cross", index)
        if part in data and part not in slices:
            return  # said at its own place
        if part not in plain:
            what = "is no slice"
            if part in slices:
                what = "is crossed itself" if slices[part].cross else "is told by labels"
            allowed = f"allowed: {', '.join(plain)}" if plain else "the service has no other slices"
            reading.add(here, f"{found(part)} {what}; {near(part, plain)}{allowed}")
            return
    groups = groups_of_slice(name, slices)
    if len(groups) > MAX_GROUPS:
        reading.add((*path, "cross"), f"found {len(groups)} combinations; allowed: at most {MAX_GROUPS}")
    elif len(set(groups)) < len(groups):
        reading.add(
            (*path, "cross"), f"two combinations have the same name; rename values that hold '{BETWEEN}'"
        )
    _check_reference(one, groups, path, reading)


def _check_reference(one: Slice, groups: Sequence[str], path: KeyPath, reading: Reading) -> None:
    if one.reference is not None and one.reference not in groups:
        hint = near(one.reference, groups)
        reading.add(
            (*path, "reference"), f"found {found(one.reference)}; {hint}allowed: one of {', '.join(groups)}"
        )


def _check_slice(one: Slice, path: KeyPath, reading: Reading) -> None:
    if one.source == "labels":
        if one.path is not None:
            reading.add(
                (*path, "path"), "feedback tells this slice, no request does; remove the key", key=True
            )
    elif one.path is None:
        reading.add((*path, "path"), "this key is required; add it, or from: labels where feedback tells it")
    else:
        check_accessor(one.path, (*path, "path"), reading)
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
        if value == POOLED:
            reading.add(
                (*path, "values", index), f"'{POOLED}' is what small groups together are called; rename it"
            )
    _check_reference(one, one.values, path, reading)


def _check_bins(one: Slice, path: KeyPath, reading: Reading) -> None:
    if not 2 <= len(one.bins) <= MAX_GROUPS:  # noqa: PLR2004
        reading.add((*path, "bins"), f"found {len(one.bins)} edges; allowed: 2 to {MAX_GROUPS}")
    for index, (left, right) in enumerate(zip(one.bins, one.bins[1:], strict=False), start=1):
        if left >= right:
            reading.add((*path, "bins", index), f"found {right:g} after {left:g}; edges must grow")
    _check_reference(one, named_groups((), one.bins), path, reading)


def check_inputs(data: Data, reading: Reading) -> None:
    """Report input features that cannot be compared."""
    if not isinstance(data, dict):
        return
    if len(data) > MAX_INPUTS:
        reading.add(("inputs",), f"found {len(data)} inputs; allowed: at most {MAX_INPUTS}")
    for name, value in data.items():
        path: KeyPath = ("inputs", name)
        if not _SLICE.fullmatch(name):
            allowed = "1 to 63 lower-case letters, digits, '-' and '_'"
            reading.add(path, f"found the input name {found(name)}; allowed: {allowed}", key=True)
        one = None if reading.touches(path) else piece(Input, value)
        if one is not None:
            _check_input(one, path, reading)


def _check_input(one: Input, path: KeyPath, reading: Reading) -> None:
    check_accessor(one.path, (*path, "path"), reading)
    if one.range is not None:
        low, high = one.range
        if one.type != "number":
            reading.add((*path, "range"), "only numbers have a range; remove it, or write type: number")
        elif low >= high:
            reading.add(
                (*path, "range"), f"found {low:g} and {high:g}; the first must be less than the second"
            )
    if one.values and one.type != "category":
        reading.add((*path, "values"), "only categories have values; remove it, or write type: category")
    elif len(one.values) > MAX_GROUPS:
        reading.add((*path, "values"), f"found {len(one.values)} categories; allowed: at most {MAX_GROUPS}")
    _check_distinct(one.values, (*path, "values"), reading)


def check_recording(data: Data, reading: Reading) -> None:
    """Report what cannot be recorded."""
    recording = piece(Recording, data)
    if recording is None:
        return
    for key, fields in (("request", recording.request), ("response", recording.response)):
        if len(fields) > MAX_RECORDED:
            reading.add(
                ("recording", key), f"found {len(fields)} fields; allowed: at most {MAX_RECORDED} to record"
            )
        for index, field in enumerate(fields):
            check_accessor(field, ("recording", key, index), reading)
        _check_distinct(fields, ("recording", key), reading)
    kept = (*recording.request, *recording.response)
    for index, field in enumerate(recording.hashed):
        if field not in kept:
            reading.add(
                ("recording", "hashed", index),
                f"found {found(field)}, which is not recorded; {near(field, kept)}"
                "add it to request or response",
            )
    _check_distinct(recording.hashed, ("recording", "hashed"), reading)
    if kept and not recording.sample and isinstance(data, dict) and "sample" not in data:
        reading.add(("recording",), "fields are named and no request is recorded; add sample: 1%")


def _check_distinct(values: tuple[str, ...], path: KeyPath, reading: Reading) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            reading.add((*path, index), f"{found(value)} is listed twice; remove one")
