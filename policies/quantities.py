"""The written quantities: durations, shares, sizes, margins. Each parses one text into one plain value.

In a file every quantity carries its unit, so a bare number is refused there (context `WRITTEN`).
Without that context plain values pass as they are: code and stored records hold seconds, shares, bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Final, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from .text import shorten

WRITTEN: Final[Mapping[str, bool]] = {"written": True}  # the validation context of a file

_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_SECONDS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
RATIOS: Final = frozenset({"selection_ratio"})  # metrics whose least value is a number, not a share
LONGEST: Final = 366 * 86400.0  # s; longer is a typing mistake

DURATION_PATTERN: Final = rf"^{_NUMBER}(?:ms|s|m|h|d)$"
FRACTION_PATTERN: Final = rf"^{_NUMBER}%$"
SIZE_PATTERN: Final = rf"^{_NUMBER}(?:B|KiB|MiB|GiB)$"
MARGIN_PATTERN: Final = rf"^{_NUMBER}(?:pp|sd|ms)$"
STATUS_PATTERN: Final = r"^[1-5][0-9]{2}-[1-5][0-9]{2}$"
COMPARISON_PATTERN: Final = r"^(?:>=|>|<=|<|==|!=) *\S.*$"

# What to write instead of a percent, by key: a percent of an absolute margin could mean two things.
_NO_PERCENT: Final = {
    "max_increase": "a percent could be of two things; write {pp} (absolute) or max_ratio: {ratio}",
    "max_decrease": "a percent could be of two things; write {pp} (absolute)",
    "max_shift": "a percent could be of two things; write {pp} (points), or 0.1sd (of stable)",
    "harm_at": "a percent could be of two things; write {pp} (points), 0.05sd, or {ratio} (a factor)",
}


def found(value: object) -> str:
    """A value as messages quote it: `found` and what it is, bounded and without any structure below it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return f"'{shorten(value)}'" if value else "empty text"
        case Mapping():
            return "a mapping"
        case _:
            return "a list"


def _is_written(info: ValidationInfo) -> bool:
    return bool(info.context and info.context.get("written"))


def _is_stored(value: object, kind: type[BaseModel], info: ValidationInfo) -> bool:
    """True for the value itself, and for its stored form, which a file may not give."""
    return isinstance(value, kind) or (isinstance(value, Mapping) and not _is_written(info))


def parse_duration(value: object, info: ValidationInfo) -> float:
    """Seconds, of `500ms`, `2s`, `10m`, `24h`, `7d`. Raises ValueError."""
    allowed = "allowed: a duration such as 500ms, 2s, 10m, 24h, 7d"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if _is_written(info):
            raise ValueError(f"found {value} without a unit; write {value}s, or another {allowed[9:]}")
        return float(value)
    match = re.fullmatch(rf"({_NUMBER})(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"found {found(value)}; {allowed}")
    seconds = float(Decimal(match[1]) * _SECONDS[match[2]])
    if seconds > LONGEST:
        raise ValueError(f"found {found(value)}; {allowed}, at most 366d")
    return seconds


def parse_fraction(value: object, info: ValidationInfo) -> float:
    """A share in 0..1, of `5%`. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if _is_written(info):
            meant = f"{percent(float(value))} for this share, or " if 0.0 <= value <= 1.0 else ""
            raise ValueError(f"found {value} without a unit; write {meant}{value}%")
        return float(value)
    match = re.fullmatch(rf"({_NUMBER})(%|pp)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"found {found(value)}; allowed: a share from 0% to 100%, such as 5%")
    if match[2] == "pp":
        raise ValueError(
            f"found {found(value)}; a share is written {match[1]}% (pp is for differences of shares)"
        )
    share = Decimal(match[1]) / 100
    if share > 1:
        raise ValueError(f"found {found(value)}; allowed: 0% to 100%")
    return float(share)


def parse_least(value: object, info: ValidationInfo) -> float:
    """A share in 0..1, of `95%`; of a ratio of two rates a plain number. Raises ValueError."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not (_is_written(info) and info.data.get("metric") in RATIOS):
        return parse_fraction(value, info)
    if not plain:
        raise ValueError(f"found {found(value)}; allowed: a plain number, such as 0.8")
    return float(cast("float", value))


def parse_size(value: object, info: ValidationInfo) -> int:
    """Bytes, of `512B`, `64KiB`, `8MiB`, `1GiB`. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        if _is_written(info):
            raise ValueError(f"found {value} without a unit; write {value}B, or a size such as 64KiB, 8MiB")
        return value
    match = re.fullmatch(rf"({_NUMBER})(B|KiB|MiB|GiB)", value) if isinstance(value, str) else None
    size = Decimal(match[1]) * _BYTES[match[2]] if match else None
    if match is None or size is None or size != size.to_integral_value():
        raise ValueError(f"found {found(value)}; allowed: a size such as 512B, 64KiB, 8MiB, 1GiB")
    if size > 2**40:
        raise ValueError(f"found {found(value)}; allowed: at most 1024GiB")
    return int(size)


def parse_status(value: object, info: ValidationInfo) -> tuple[int, int]:
    """An inclusive range of HTTP statuses, of `500-599` or `503`. Raises ValueError."""
    shown = found(value)
    low: int | None = None
    high: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (match := re.fullmatch(r"([0-9]{3})-([0-9]{3})", value)):
        low, high = int(match[1]), int(match[2])
    elif isinstance(value, list | tuple) and not _is_written(info):
        match cast("Sequence[object]", value):
            case [int(first), int(last)]:
                low, high = first, last
            case _:
                pass
    if low is None or high is None or not 100 <= low <= high <= 599:  # noqa: PLR2004  (RFC 9110, section 15)
        raise ValueError(f"found {shown}; allowed: a status such as 503, or a range such as 500-599")
    return low, high


def parse_margin(value: object, info: ValidationInfo) -> object:
    """A Margin, of `0.5pp`, `20ms`, `0.1sd` or a plain number. Raises ValueError."""
    if _is_stored(value, Margin, info):
        return Margin.model_validate(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < 0 or not math.isfinite(value):
            raise ValueError(f"found {found(value)}; a margin is not negative: it is a distance")
        return Margin(value=float(value), unit="plain")
    allowed = "allowed: a margin with its unit, such as 0.5pp, 0.1sd, 20ms, or a plain number"
    match = re.fullmatch(rf"({_NUMBER})(%|pp|sd|ms)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"found {found(value)}; {allowed}")
    number = Decimal(match[1])
    match match[2]:
        case "pp":
            return Margin(value=float(number / 100), unit="pp")
        case "ms":
            return Margin(value=float(number / 1000), unit="ms")
        case "sd":
            return Margin(value=float(number), unit="sd")
        case _:
            text = _NO_PERCENT.get(info.field_name or "", allowed)
            ratio = (1 + number / 100).normalize()
            # The lead case is an increase of a rate: 5% of a rate of 10% are 0.5pp.
            raise ValueError(f"found {found(value)}; " + text.format(pp="0.5pp", ratio=f"{ratio:f}"))


def parse_comparison(value: object, info: ValidationInfo) -> object:
    """A Comparison, of `>= 0.5` or `== approve`; on labels (`type` beside it) the operand stays text."""
    if _is_stored(value, Comparison, info):
        return Comparison.model_validate(value)
    match = re.fullmatch(r"(>=|>|<=|<|==|!=) *(\S(?:.*\S)?) *", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f'found {found(value)}; allowed: a comparison in quotes, such as ">= 0.5" or "== approve"'
        )
    operator, operand = match[1], match[2]
    number = re.fullmatch(rf"-?{_NUMBER}", operand)
    is_label = info.data.get("type") == "label"
    return Comparison.model_validate(
        {"operator": operator, "operand": float(operand) if number and not is_label else operand}
    )


def percent(share: float) -> str:
    """A share as users write it: 0.05 -> 5%."""
    return f"{share * 100:.6g}%"


def written_duration(seconds: float) -> str:
    """Seconds as users write them, in the largest whole unit: 604800 -> 7d."""
    for unit, length in reversed(_SECONDS.items()):
        if seconds >= length and Decimal(str(seconds)) % length == 0:
            return f"{int(Decimal(str(seconds)) / length)}{unit}"
    return f"{seconds:g}s"


class Value(BaseModel):
    """Base of everything read from a file: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=False
    )


class Margin(BaseModel):
    """A margin with its unit. pp: value is a fraction (0.5pp -> 0.005); ms: seconds; sd: multiples; plain."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    unit: Literal["pp", "ms", "sd", "plain"]

    def __str__(self) -> str:
        scale, unit = {"pp": (100, "pp"), "ms": (1000, "ms"), "sd": (1, "sd"), "plain": (1, "")}[self.unit]
        return f"{self.value * scale:.6g}{unit}"


class Comparison(BaseModel):
    """What `selected` means: `>= 0.5` on a number, `== approve` on a label."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    operator: Literal[">=", ">", "<=", "<", "==", "!="]
    operand: float | str

    def __str__(self) -> str:
        return f"{self.operator} {self.operand}"


def _text(pattern: str, description: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "pattern": pattern, "description": description, "examples": list(examples)}
    )


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    _text(DURATION_PATTERN, "A duration with its unit.", "500ms", "2s", "10m", "24h", "7d"),
]  # seconds
Fraction = Annotated[
    float,
    BeforeValidator(parse_fraction),
    _text(FRACTION_PATTERN, "A share from 0% to 100%.", "5%", "0.5%"),
]  # 0..1
Least = Annotated[
    float,
    BeforeValidator(parse_least),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": "string", "pattern": FRACTION_PATTERN},
            ],
            "description": "A share from 0% to 100%, or a plain number where two rates are divided.",
            "examples": ["95%", 0.8],
        }
    ),
]  # 0..1
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    _text(SIZE_PATTERN, "A size with its unit.", "64KiB", "8MiB"),
]  # bytes
StatusRange = Annotated[
    tuple[int, int],
    BeforeValidator(parse_status),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": STATUS_PATTERN},
            ],
            "description": "An HTTP status, or an inclusive range of them.",
            "examples": [503, "500-599"],
        }
    ),
]  # inclusive
WrittenMargin = Annotated[
    Margin,
    BeforeValidator(parse_margin),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": MARGIN_PATTERN},
            ],
            "description": "A margin: pp (points of a share), sd (of stable), ms, or a plain number.",
            "examples": ["0.5pp", "0.1sd", "20ms", 0.01],
        }
    ),
]
WrittenComparison = Annotated[
    Comparison,
    BeforeValidator(parse_comparison),
    _text(COMPARISON_PATTERN, "A comparison with a number or a label.", ">= 0.5", "== approve"),
]


class Clock(Value):
    """What happens when a hold has lasted `after` seconds."""

    action: Literal["rollback", "pause"] = Field(description="What happens when the time is over.")
    after: Annotated[Duration, Field(gt=0)] = Field(description="How long the hold may last.")
