"""What a plan is made for: numbers that the user gives, and where every number comes from."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

Source = Literal["given", "measured", "assumed"]

_Share = Annotated[float, Field(gt=0.0, lt=1.0)]
_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_Many = Annotated[float, Field(gt=0.0, le=1e9)]  # more is nobody's traffic, and overflows


class Given(BaseModel):
    """Numbers that go before what was measured and before every assumption. All optional; rates are shares.

    `rate`: requests a second. `error_rate`, `selection_rate`: of stable. `sd`: of stable's prediction, in
    its own unit. `agreement`: share of pairs that agree. `correlation`: of the two answers to one request.
    `slices`: `name=group` -> share of the traffic. `units`: users or sessions that come back, for a sticky
    service, weighted by their requests. `within_unit`: correlation of two requests of one of them.
    `burstiness`: variance of stable's error counts between time clusters over that of independent errors.
    `labelled`: share of predictions whose label ever comes. `true_cases`: share of them that turn out true.
    `harm`: the harm to look for, as a multiple of the margin. `attempt`: how often this candidate was
    rolled out before.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rate: _Many | None = None
    error_rate: _Share | None = None
    selection_rate: _Share | None = None
    sd: _Positive | None = None
    agreement: _Share | None = None
    correlation: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    slices: dict[str, _Share] = {}
    units: _Many | None = None
    within_unit: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    burstiness: Annotated[float, Field(ge=1.0, le=1e6)] | None = None
    labelled: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    true_cases: _Share | None = None
    harm: Annotated[float, Field(gt=1.0, le=100.0)] | None = None
    attempt: Annotated[int, Field(ge=0, le=60)] | None = None


class Fact(msgspec.Struct, frozen=True):
    """One number that a plan rests on, as it is read, and where it comes from."""

    name: str
    value: str
    source: Source
    note: str = ""
