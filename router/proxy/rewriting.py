"""The `model` member of a JSON request, set without touching any other byte.

OpenAI-compatible servers address the version by the body's `model` field, so each arm gets its own name
there. Decoding and encoding again would change numbers, duplicate keys, whitespace and signatures; instead
the bytes of the value are replaced where they stand. Linear in the body; nothing recurses.
"""

from __future__ import annotations

import json
import re
from typing import Final

import msgspec

_SPACE: Final = rb"[ \t\n\r]*+"  # RFC 8259, section 2
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # possessive: never steps back, keeps no stack

# How nearly every request looks: the first member is the model, a plain string.
_FIRST: Final = re.compile(rb'%b\{%b"model"%b:%b("[^"\\]*+")' % ((_SPACE,) * 4), re.DOTALL)
_OPENING: Final = re.compile(rb"%b\{%b" % (_SPACE, _SPACE))
# What moves a scan: a string (with its colon where it is a key), or a bracket.
_TOKEN: Final = re.compile(rb"(%b)(%b:%b)?|[\[{]|[\]}]" % (_STRING, _SPACE, _SPACE), re.DOTALL)
_SCALAR: Final = re.compile(rb"%b|[^\s,\]}]++" % _STRING, re.DOTALL)
_KEY: Final = b'"model"'

_valid = msgspec.json.Decoder(msgspec.Raw).decode  # checks the syntax and makes no objects
# The standard library's reading knows NaN; numbers stay text, for they may have any length.
_lenient = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode


def rewritten(body: bytes, model: bytes) -> bytes | None:
    """`body` with the value of every top-level `model` member replaced by the string `model`.

    `model`: the name in UTF-8, not escaped. An object without the member gets it as its first one.
    None where the body is no JSON object in UTF-8, or `model` is not UTF-8: nothing may be changed then.
    NaN and Infinity count as JSON, as model servers accept them.
    """
    try:
        value = msgspec.json.encode(model.decode())
    except UnicodeDecodeError:
        return None
    if not _is_json(body):
        return None
    first = _FIRST.match(body)
    # A second "model", and one spelled with escapes, could be another top-level member.
    if first is not None and body.count(b"model") == 1 and b"\\u" not in body:
        return b"".join((body[: first.start(1)], value, body[first.end(1) :]))
    opening = _OPENING.match(body)
    if opening is None:
        return None
    spans = _spans(body, opening.end())
    if not spans:
        at = opening.end()
        more = b"" if body[at : at + 1] == b"}" else b", "
        return b"".join((body[:at], _KEY, b": ", value, more, body[at:]))
    parts: list[bytes] = []
    kept = 0
    for start, end in spans:
        parts += (body[kept:start], value)
        kept = end
    parts.append(body[kept:])
    return b"".join(parts)


def _is_json(body: bytes) -> bool:
    try:
        _valid(body)
    except msgspec.DecodeError:
        try:
            _lenient(body.decode())
        except (ValueError, RecursionError):
            return False
    except RecursionError:  # nested beyond what any reader of ours takes
        return False
    return True


def _spans(body: bytes, at: int) -> list[tuple[int, int]]:
    """Where the values of members called `model` stand in a valid object whose first member is at `at`."""
    found: list[tuple[int, int]] = []
    depth = 1
    start = -1  # of a wanted value that is a list or an object, until its end
    search = _TOKEN.search
    while (token := search(body, at)) is not None:
        at = token.end()
        if (text := token[1]) is not None:
            if depth == 1 and token[2] is not None and _is_model(text):
                scalar = _SCALAR.match(body, at)
                if body[at] in b"[{" or scalar is None:
                    start = at
                else:
                    found.append((at, scalar.end()))
                    at = scalar.end()
        elif body[at - 1] in b"[{":
            depth += 1
        else:
            depth -= 1
            if depth == 1 and start >= 0:
                found.append((start, at))
                start = -1
    return found


def _is_model(key: bytes) -> bool:
    if b"\\" not in key:
        return key == _KEY
    return bool(json.loads(key.decode(errors="replace")) == "model")  # nobody has checked its UTF-8
