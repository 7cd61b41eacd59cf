"""The file that says who may call the controller's API: names, roles, and digests of their tokens."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from .approve import Group
from .quantities import Value
from .reading import Reading, check_keys, validate
from .yaml import load_yaml

Role = Literal["viewer", "operator", "approver"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "approver")  # each may do what those before it may


class ApiToken(Value):
    """Who shows it, what that allows, and the token's SHA-256: the file has no token itself."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Who it was given to: the actor of every act in the audit trail."
    )
    role: Role = Field(
        description="viewer: reads and plans. operator: starts, moves and aborts rollouts, sends labels. "
        "approver: also approves, and promotes past what is not proven."
    )
    groups: tuple[Group, ...] = Field(
        default=(), description="The groups whose approvals this person may give, such as model-risk."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the token in hexadecimal, as `accede token` prints it."
    )


class ApiTokens(Value):
    """A file of tokens."""

    format: Literal["accede/v1"]
    kind: Literal["ApiTokens"]
    tokens: tuple[ApiToken, ...]


def parse_tokens(content: str | bytes, file: str) -> ApiTokens:
    """The tokens of a text; `file` is the name that problems show. Raises FileError with every problem."""
    document = load_yaml(content, file)
    reading = Reading(document)
    tokens = validate(ApiTokens, check_keys(ApiTokens, document.data, (), reading), (), reading)
    if tokens is not None and not tokens.tokens:
        reading.add(("tokens",), "found none; `accede token` makes one, with its entry for this file")
    for key in ("name", "sha256"):
        seen: set[str] = set()
        for index, one in enumerate(() if tokens is None else tokens.tokens):
            value = str(getattr(one, key))
            if value in seen:
                reading.add(("tokens", index, key), f"the same {key} as a token above; give each its own")
            seen.add(value)
    reading.finish()
    assert tokens is not None, "validate reports what it refuses"  # noqa: S101
    return tokens
