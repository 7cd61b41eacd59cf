"""The token that lets a caller choose the version: read from the controller's environment, kept as a digest.

Only its SHA-256 goes into routes, so neither the store nor a log nor a router's memory map has the token.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Final

from ...errors import Conflict
from ...policies.service import ModelService

SHORTEST: Final = 16  # characters; a digest that every reader of the store sees must not be guessable


def override_digest(service: ModelService, environment: Mapping[str, str] | None = None) -> str | None:
    """SHA-256 (hexadecimal) of the service's override token; None where its file declares none.

    `environment`: the process's own by default. Raises Conflict where the variable is missing, too short, or
    no header could carry it.
    """
    if service.override is None:
        return None
    name = service.override.token.removeprefix("env:")
    token = (os.environ if environment is None else environment).get(name, "")
    where = f"service {service.name!r}: override.token names the environment variable {name}"
    if not token:
        raise Conflict(f"{where}, which the controller does not have; set it for the controller and restart")
    if len(token) < SHORTEST or not (token.isascii() and token.isprintable() and " " not in token):
        raise Conflict(
            f"{where}, whose value is no usable token; allowed: at least {SHORTEST} printable ASCII "
            "characters without spaces"
        )
    return hashlib.sha256(token.encode()).hexdigest()
