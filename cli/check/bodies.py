"""How a service's protocol wants a request: the path of a call, and the body of one CSV row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

import msgspec

from ...errors import UsageError
from ...policies.service import ModelService

# A number as JSON writes it (RFC 8259, section 6): 01234 is a code and stays text.
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final[Mapping[str, Any]] = {"": None, "true": True, "false": False}
_WHOLE: Final = frozenset({"json", "bentoml"})
_INSTANCES: Final = frozenset({"tensorflow-serving", "kserve-v1"})


def call_path(service: ModelService) -> str:
    """The path that a prediction is asked for at. Raises UsageError where the file does not say."""
    path = service.match.path
    if service.protocol == "mlflow" and path is None:
        return "/invocations"
    if path is None:
        raise UsageError(
            f"service {service.name!r} is matched by its host; say with --path where predictions are asked "
            "for"
        )
    last = path.rstrip("/").rpartition("/")[2]
    if service.protocol in _INSTANCES and ":" not in last:
        return f"{path.rstrip('/')}:predict"
    if service.protocol == "open-inference" and last != "infer":
        return f"{path.rstrip('/')}/infer"
    return path


def value_of(text: str) -> Any:
    """A CSV field as JSON: numbers, true and false, nothing for an empty one, else text.

    Raises ValueError for a number that no server reads as the same one.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text):
        number = float(text)
        if not isfinite(number):
            raise ValueError("holds a number beyond 1.8e308, which JSON readers do not share")
        return int(text) if text.lstrip("-").isdigit() else number
    return text


def body_of(protocol: str, row: Mapping[str, str]) -> bytes:
    """The request that asks for the prediction of one CSV row.

    Raises UsageError for other protocols, ValueError for what is no JSON.
    """
    values = {name: value_of(text) for name, text in row.items()}
    document: Any
    if protocol in _INSTANCES:
        document = {"instances": [values]}
    elif protocol in _WHOLE:
        document = values
    elif protocol == "mlflow":
        document = {"dataframe_records": [values]}
    elif protocol == "open-inference":
        document = {"inputs": [_tensor(name, value) for name, value in values.items()]}
    else:
        raise UsageError(
            f"a CSV row has no form in protocol {protocol}; write JSON Lines with a whole request a line"
        )
    return msgspec.json.encode(document)


def _tensor(name: str, value: Any) -> dict[str, Any]:
    number = "FP64" if isinstance(value, int | float) else "BYTES"
    kind = "BOOL" if isinstance(value, bool) else number
    return {"name": name, "shape": [1, 1], "datatype": kind, "data": ["" if value is None else value]}
