"""Paths into JSON bodies, parsed once: `a.b[0].c`, `[*]` for every element of one list, `$` for all of it.

An accessor never raises, whatever the document: what is not there is MISSING.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, final

from ..errors import WireError

_TOKEN = re.compile(r"(?:^|\.)(?P<key>[^.\[\]]+)|\[(?P<index>[0-9]{1,9}|\*)\]")


# Of a JSON value, exactly: True is no number. Untyped, so that checkers do not guess what a list holds.
kind_of: Callable[[object], Any] = type


@final
class Missing:
    """The type of MISSING."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()

WHOLE: Final = "$"  # the path of the whole document
EVERY: Final = None  # the token of [*]
Token = str | int | None

# The kind of container a step needs, and its key or index in it: "abc"[0] must not be "a".
_Step = tuple[Any, str | int]


class Accessor:
    """One compiled path. `every` is True where it has `[*]`."""

    __slots__ = ("_after", "_before", "every")

    def __init__(self, before: tuple[_Step, ...], after: tuple[_Step, ...] | None) -> None:
        self._before = before
        self._after = after
        self.every = after is not None

    def one(self, document: Any) -> Any:
        """The value at the path's steps before `[*]` (all of them without one), or MISSING."""
        return _walk(document, self._before)

    def instances(self, document: Any) -> list[Any] | None:
        """The values of all instances, MISSING where one has none; None where there is no list.

        Without `[*]`: the one value in a list, or None.
        """
        found = _walk(document, self._before)
        if self._after is None:
            return None if found is MISSING else [found]
        if kind_of(found) is not list:
            return None
        if not self._after:
            return found  # type: ignore[no-any-return]
        after = self._after
        return [_walk(item, after) for item in found]


def _walk(document: Any, steps: tuple[_Step, ...]) -> Any:
    node = document
    for kind, step in steps:
        if type(node) is not kind:
            return MISSING
        try:
            node = node[step]  # kind says that it fits
        except LookupError:
            return MISSING
    return node


def compile_path(text: str) -> Accessor:
    """The accessor of a path. Raises WireError where it is not one: files are checked long before this."""
    return accessor(tokens_of(text))


def accessor(tokens: list[Token]) -> Accessor:
    """The accessor of tokens with at most one EVERY."""
    at = tokens.index(EVERY) if EVERY in tokens else None
    steps = tuple(_step(token) for token in tokens)
    return Accessor(steps, None) if at is None else Accessor(steps[:at], steps[at + 1 :])


def _step(token: Token) -> _Step:
    """EVERY becomes an index that nobody walks."""
    return (dict, token) if isinstance(token, str) else (list, token or 0)


def tokens_of(text: str) -> list[Token]:
    """Keys, indices and EVERY of a path, in order. Raises WireError where it is not one."""
    found: list[Token] = []
    if text == WHOLE:
        return found
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            break
        at = token.end()
        key, index = token["key"], token["index"]
        if key is not None:
            found.append(key)
        elif index != "*":
            found.append(int(index))
        elif EVERY not in found:
            found.append(EVERY)
        else:
            raise WireError(f"the path {text!r} has more than one [*]; one is allowed")
    if at < len(text) or not text:
        raise WireError(
            f"the path {text!r} cannot be read from character {at + 1}; allowed: a.b[0].c, a[*].b, $"
        )
    return found
