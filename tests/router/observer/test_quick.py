"""The short way reads what the extractor reads, or leaves it to the extractor."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accede.errors import WireError
from accede.router.facts import Body, Ending, Fact
from accede.router.observer.fold import Fold
from accede.router.observer.notebook import Notebook
from accede.router.observer.quick import Picker
from accede.router.observer.remembered import Remembering
from accede.store.evidence import Evidence
from accede.store.labels import Prediction
from accede.store.measurement import (
    Extraction,
    LatencyThresholds,
    MeasurementPlan,
    RankTable,
    Selected,
    SlicePlan,
    ValuePlan,
)
from accede.store.routes import WIRE, Arm, ServiceRoute


def plan(path: str, kind: Any, slices: tuple[str, ...], **changes: Any) -> MeasurementPlan:
    planned = tuple(
        SlicePlan(f"s{at}", where, *((("f", "m"), ()) if at % 2 == 0 else ((), (0.0, 25.0, 40.0))))
        for at, where in enumerate(slices)
    )
    if len(planned) > 1:
        planned += (SlicePlan("crossed", "", cross=planned[:2]),)
    selected = Selected(">=", 0.5) if kind == "number" else Selected("==", "f")
    names = tuple(one.name for one in planned)
    settings: dict[str, Any] = {
        "rollout": "r", "epoch": 1, "stage": "canary", "batch": 5.0, "account_after": 10.0,
        "extraction": Extraction(path, kind, selected, None, planned),
        "limits": (0.0, 1.0) if kind == "number" else None,
        "edges": (0.25, 0.5, 0.75) if kind == "number" else (),
        "classes": () if kind == "number" else ("f", "m"),
        "thresholds": (LatencyThresholds("latency.p95", 100, 110, 120),),
        "sliced_metrics": dict.fromkeys(
            ("mean", "selected", "missing", "errors", "bin", "latency.p95"), names
        ),
    }  # fmt: skip
    return MeasurementPlan(**{**settings, **changes})


OWN = (ValuePlan("share", "predictions[*].o"), ValuePlan("n", "predictions[*].sex", "number", (0.0, 2.0)))
RANKS = RankTable((0.0, 0.5), (0.1, 0.5, 0.9))


def fold(planned: MeasurementPlan, protocol: str) -> Fold:
    arms = (Arm("stable", "1", ("http://a",), 5000), Arm("candidate", "2", ("http://b",), 5000))
    route = ServiceRoute(
        wire=WIRE, service="s", generation=1, path="/", host=None, protocol=protocol, arms=arms, plan=planned
    )
    return Fold(route, planned)


def both_ways(planned: MeasurementPlan, protocol: str, exchanges: list[tuple[Fact, Body]]) -> Evidence:
    """By the short way where it goes, and by the extractor alone: the same evidence and the same memory."""
    found: list[Evidence] = []
    remembered: list[list[Prediction]] = []
    for short in (True, False):
        folded = fold(planned, protocol)
        assert folded._quick is not None
        if not short:
            folded._quick = None
        notebook = Notebook()
        remembering = Remembering.of("s", planned, folded.slice_names, notebook)
        for fact, body in exchanges:
            seen = folded.read(fact, body)
            folded.add(fact, seen)
            if remembering is not None and seen is not None:
                remembering.exchange(fact, str(fact.number), seen)
        remembered.append([one for _, part in notebook.hand_out() for one in part])
        found.append(folded.evidence("x:y", 1.0, 1.0, {}))
    quick, general = found
    assert remembered[0] == remembered[1]
    assert {key: _rounded(series) for key, series in quick.series.items()} == {
        key: _rounded(series) for key, series in general.series.items()
    }
    assert msgspec.structs.replace(quick, series={}) == msgspec.structs.replace(general, series={})
    return quick


def _rounded(series: Any) -> list[list[float]]:
    return [[round(value, 9) for value in column] for column in (series.n, series.sum, series.square)]


def fact(**changes: Any) -> Fact:
    base = Fact(1, 0, 0, 0, 12.0, Ending.ANSWERED, 200, 0.1, 3, False, 1, 10, 10)
    return msgspec.structs.replace(base, **changes)


_LEAF: st.SearchStrategy[Any] = st.sampled_from(
    [0.3, 0.7, 1, 0, -3, 99, "f", "m", "x", "", True, False, None, [], [0.4], [[0.4]], ["f"], {}, 10**400]
)
_ITEM = _LEAF | st.fixed_dictionaries({}, optional={"score": _LEAF, "sex": _LEAF, "age": _LEAF, "o": _LEAF})
_LIST = st.lists(_ITEM, max_size=3)
_DOCUMENT = (
    st.fixed_dictionaries(
        {}, optional={"predictions": _LIST | _ITEM, "instances": _LIST | _ITEM, "score": _LEAF}
    )
    | _LIST
    | _LEAF
)
_USUAL = st.builds(
    lambda score, sex, age: (
        {"instances": [{"age": age, "sex": sex, "o": 1}]},
        {"predictions": [{"score": score}], "score": score},
    ),
    _LEAF, _LEAF, _LEAF,
)  # fmt: skip
_BODIES = _USUAL | st.tuples(_DOCUMENT, _DOCUMENT)
_EXCHANGE = st.tuples(_BODIES, st.sampled_from([200, 204, 302, 404, 500]), st.integers(0, 2))


@pytest.mark.parametrize("kind", ["number", "label"])
@pytest.mark.parametrize(
    ("protocol", "path", "slices"),
    [
        ("json", "predictions[0].score", ("instances[0].sex", "instances[0].age")),
        ("json", "predictions[*].score", ("instances[*].sex", "instances[*].age")),
        ("json", "score", ("instances[*].sex", "predictions[0].age", "score")),
        ("json", "predictions[0]", ("instances[1].sex",)),
        ("json", "score", ()),
        ("tensorflow-serving", "", ("instances[*].sex",)),
        ("kserve-v1", "", ("instances[*].sex", "instances[0].age")),
        ("tensorflow-serving", "predictions[0].score", ("instances[*].sex",)),
    ],
)
@settings(max_examples=25)
@given(bodies=st.lists(_EXCHANGE, max_size=4), baseline=st.booleans(), sticky=st.booleans())
def test_it_agrees_with_the_extractor(
    kind: str, protocol: str, path: str, slices: tuple[str, ...], bodies: Any, baseline: bool, sticky: bool
) -> None:
    planned = plan(path, kind, slices, stage="baseline" if baseline else "canary", sticky=sticky)
    exchanges = [
        (
            fact(number=at, status=status, latency=0.01 * 3**size, assigned_at=12.0 + size),
            Body(at, json.dumps(sent).encode(), json.dumps(answer).encode(), "", ""),
        )
        for at, ((sent, answer), status, size) in enumerate(bodies)
    ]
    both_ways(planned, protocol, exchanges)


@settings(max_examples=50)
@given(bodies=st.lists(_EXCHANGE, max_size=4), sticky=st.booleans())
def test_it_agrees_with_the_extractor_about_what_stands_beside(bodies: Any, sticky: bool) -> None:
    planned = plan(
        "predictions[*].score", "number", ("instances[*].sex",), sticky=sticky, ranks=RANKS, labels=True
    )
    assert planned.extraction is not None
    extraction = msgspec.structs.replace(planned.extraction, values=OWN, uncertainty="predictions[*].age")
    sliced = {**planned.sliced_metrics, "metrics.share": ("s0",)}
    planned = msgspec.structs.replace(planned, extraction=extraction, sliced_metrics=sliced)
    exchanges = [
        (
            fact(number=at, status=status, assigned_at=12.0 + size),
            Body(at, json.dumps(sent).encode(), json.dumps(answer).encode(), "", ""),
        )
        for at, ((sent, answer), status, size) in enumerate(bodies)
    ]
    both_ways(planned, "json", exchanges)


def test_an_ordinary_exchange_goes_the_short_way() -> None:
    folded = fold(plan("predictions[*].score", "number", ("instances[*].sex", "instances[0].age")), "json")
    body = Body(1, b'{"instances":[{"sex":"m","age":30}]}', b'{"predictions":[{"score":0.7}]}', "", "")
    assert folded.read(fact(), body) == (0.7, True, 2, (1, 1, 4), 0.7, (), None)
    for changes in ({"status": 500}, {"status": 404}, {"ending": 3}, {"served": 1}):
        assert not isinstance(folded.read(fact(**changes), body), tuple)
    for changed in (
        msgspec.structs.replace(body, response_encoding="gzip"),
        msgspec.structs.replace(body, request_encoding="br"),
        msgspec.structs.replace(body, response=b'{"predictions":[{"score":NaN}]}'),
        msgspec.structs.replace(body, response=b'{"predictions":[{"score":1},{"score":2}]}'),
        msgspec.structs.replace(body, request=b"{}"),
        msgspec.structs.replace(body, request=b"[" * 100_000),
    ):
        assert not isinstance(folded.read(fact(), changed), tuple)


@pytest.mark.parametrize(
    "paths", [["$"], ["a", "a.b"], ["a[0]", "a.b"], ["a[0]", "a[0].b"], ["a", "a[*]"], []]
)
def test_paths_that_want_different_things_of_one_place_have_no_short_way(paths: list[str]) -> None:
    with pytest.raises(WireError):
        Picker(paths, [repr] * len(paths))


def test_keys_of_a_file_are_never_code() -> None:
    picker = Picker(["__class__.f0", "d", "') + exit('"], [int, float, str])
    body = json.dumps({"__class__": {"f0": 1}, "d": 2, "') + exit('": 3}).encode()
    assert picker.pick(picker.decode(body)) == (1, 2.0, "3")
