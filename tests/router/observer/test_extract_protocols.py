"""Where each protocol has its predictions and features, and that no body of a stranger breaks a reader."""

from __future__ import annotations

import gzip
import json
import math
import struct
import time
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.policies.protocols import PROTOCOLS
from accede.router.facts import Body, Ending, Fact
from accede.router.observer.extract import FORMATS, Extractor
from accede.router.observer.fold import Fold
from accede.store.evidence import SeriesKey
from accede.store.measurement import Extraction, SlicePlan
from tests.router.conftest import plan, route

Kind = Literal["number", "label"]


def extractor(protocol: str, path: str = "", kind: Kind = "number", **slices: SlicePlan) -> Extractor:
    planned = tuple(slices.values())
    return Extractor(Extraction(path, kind, slices=planned), protocol, frozenset(one.name for one in planned))


def found(protocol: str, answer: Any, path: str = "", kind: Kind = "number", head: int = -1) -> list[Any]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return list(extractor(protocol, path, kind).predictions(body, "", head))


def sexes(protocol: str, request: Any, path: str, head: int = -1) -> tuple[int, Any]:
    """Instances, and the groups of a slice with female (0), male (1) and other (2)."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    reader = extractor(protocol, "$", sex=SlicePlan("sex", path, ("female", "male")))
    instances, (groups,) = reader.groups(body, "", head)
    return instances, groups


def test_every_protocol_has_a_reader() -> None:
    assert set(FORMATS) == set(PROTOCOLS)


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        ({"predictions": [0.5, [0.25]]}, "number", [0.5, 0.25]),
        ({"predictions": [{"a": 1, "b": 2}]}, "number", [None]),
        ({"outputs": [[0.5], [0.25]]}, "number", [0.5, 0.25]),
        ({"outputs": {"score": [[0.5], [0.25]]}}, "number", [0.5, 0.25]),
        ({"outputs": {"score": [0.5], "class": [1]}}, "number", []),
        ({"results": [0.5, 0.25]}, "number", [0.5, 0.25]),
        ({"results": [[["cat", 0.2], ["dog", 0.7]], [["cat", 0.9], ["dog", 0.1]]]}, "label", ["dog", "cat"]),
        ({"results": [[["cat", 0.2], ["dog", 0.7]], [["cat", 0.9], ["dog", 0.1]]]}, "number", [0.7, 0.9]),
        ({"results": [[["cat", 0.2]]]}, "label", ["cat"]),
        ({"results": [[["cat", "x"]], [[]], []]}, "label", [None, None, None]),
        ({"error": "Servable not found"}, "number", []),
        (b'{"predictions": [NaN, 0.5]}', "number", [None, 0.5]),
    ],
)
def test_tensorflow_serving(answer: Any, kind: Kind, expected: list[Any]) -> None:
    assert found("tensorflow-serving", answer, "", kind) == expected


def test_a_path_of_tensorflow_serving_goes_before_the_default() -> None:
    answer = {"outputs": {"score": [[0.5, 0.1]], "class": [["a"]]}}
    assert found("tensorflow-serving", answer, "outputs.score[*][1]") == [0.1]
    assert found("tensorflow-serving", answer, "outputs.class[*]", "label") == ["a"]
    assert found("tensorflow-serving", {"results": [[["a", 1], ["b", 2]]]}, "results[*]", "label") == ["b"]


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        ({"instances": [{"sex": "male"}, {"sex": ["female"]}]}, "instances[*].sex"),
        ({"inputs": {"sex": ["male", "female"]}}, "inputs.sex[*]"),
        ({"examples": [{"sex": "male"}, {"sex": "female"}]}, "examples[*].sex"),
        ({"instances": [[1, "male"], [2, "female"]]}, "instances[*][1]"),
    ],
)
def test_features_of_tensorflow_and_kserve_requests(request_: Any, path: str) -> None:
    for protocol in ("tensorflow-serving", "kserve-v1"):
        assert sexes(protocol, request_, path) == (2, [1, 0])


# --- Open Inference


def output(data: list[Any], shape: list[int] | None, name: str = "p", datatype: str = "FP32") -> Any:
    made = {"name": name, "datatype": datatype, "data": data}
    return made if shape is None else {**made, "shape": shape}


@pytest.mark.parametrize(
    ("outputs", "path", "expected"),
    [
        ([output([0.5, 0.25], [2])], "", [0.5, 0.25]),
        ([output([0.5, 0.25], [2, 1])], "", [0.5, 0.25]),
        ([output([[0.5], [0.25]], [2, 1])], "", [0.5, 0.25]),
        ([output([0.5], [])], "", [0.5]),
        ([output([0.5, 0.25], None)], "", [0.5, 0.25]),
        ([output([0.9, 0.1, 0.2, 0.8], [2, 2])], "", [None, None]),
        ([output([0.9, 0.1, 0.2, 0.8], [2, 2])], "outputs.p[*][1]", [0.1, 0.8]),
        ([output([[0.9, 0.1], [0.2, 0.8]], [2, 2])], "outputs[0][*][1]", [0.1, 0.8]),
        ([output([1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 2])], "outputs.p[*][1][0]", [3.0, 7.0]),
        ([output([0.9, 0.1, 0.2, 0.8], [2, 2])], "outputs.p[1][0]", [0.2]),
        ([output([0.9, 0.1], [2])], "outputs.p[0]", [0.9]),
        ([output([0.9, 0.1], [2])], "outputs.p[5]", []),
        ([output([0.9, 0.1], [2])], "outputs[0].data[1]", [0.1]),
        ([output(["x"], [1], "label"), output([0.7], [1], "p")], "outputs.p[*]", [0.7]),
        ([output([0.9, 0.1, 0.2], [2, 2])], "outputs.p[*][1]", []),  # data contradicts its shape
        ([output([0.9, 0.1], [2, 1])], "outputs.p[*][1]", []),
        ([output([], [0, 3])], "", []),
        ([output([], [10**9, 0])], "", []),
        ([output([1], [10**30])], "", []),
        ([output([1], [-1])], "", []),
        ([output([1], [1] * 4000)], "", []),
        ([], "", []),
        (None, "", []),
    ],
)
def test_open_inference_tensors(outputs: Any, path: str, expected: list[Any]) -> None:
    assert found("open-inference", {"model_name": "m", "outputs": outputs}, path) == expected


@pytest.mark.parametrize(
    ("data", "datatype", "kind", "expected"),
    [
        ([True, False], "BOOL", "label", ["true", "false"]),
        (["yes", "no"], "BYTES", "label", ["yes", "no"]),
        ([1, 2], "INT64", "label", ["1", "2"]),
        ([1.0, 2.5], "FP32", "label", ["1", "2.5"]),
        (["0.5"], "BYTES", "number", [None]),
    ],
)
def test_open_inference_datatypes(data: list[Any], datatype: str, kind: Kind, expected: list[Any]) -> None:
    answer = {"outputs": [output(data, [len(data)], datatype=datatype)]}
    assert found("open-inference", answer, "", kind) == expected


def binary(*tensors: tuple[str, str, list[int], bytes], section: str = "outputs") -> tuple[bytes, int]:
    """A body with binary tensors (name, datatype, shape, bytes), and how long its JSON is."""
    head = json.dumps(
        {
            section: [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": shape,
                    "parameters": {"binary_data_size": len(part)},
                }
                for name, datatype, shape, part in tensors
            ]
        }
    ).encode()
    return head + b"".join(part for *_, part in tensors), len(head)


def texts(*words: str) -> bytes:
    return b"".join(struct.pack("<I", len(word.encode())) + word.encode() for word in words)


@pytest.mark.parametrize(
    ("datatype", "packed", "kind", "expected"),
    [
        ("FP16", struct.pack("<2e", 0.5, -2), "number", [0.5, -2.0]),
        ("BF16", struct.pack("<2H", 0x3F00, 0xC000), "number", [0.5, -2.0]),
        ("FP32", struct.pack("<2f", 0.5, math.nan), "number", [0.5, None]),
        ("FP64", struct.pack("<2d", 0.1, math.inf), "number", [0.1, None]),
        ("INT8", struct.pack("<2b", -1, 2), "number", [-1.0, 2.0]),
        ("INT16", struct.pack("<2h", -300, 2), "number", [-300.0, 2.0]),
        ("INT32", struct.pack("<2i", -70000, 2), "number", [-70000.0, 2.0]),
        ("INT64", struct.pack("<2q", -(2**40), 2), "number", [-float(2**40), 2.0]),
        ("UINT8", struct.pack("<2B", 255, 2), "number", [255.0, 2.0]),
        ("UINT16", struct.pack("<2H", 65535, 2), "number", [65535.0, 2.0]),
        ("UINT32", struct.pack("<2I", 2**32 - 1, 2), "label", ["4294967295", "2"]),
        ("UINT64", struct.pack("<2Q", 2**64 - 1, 2), "label", ["18446744073709551615", "2"]),
        ("BOOL", b"\x01\x00", "label", ["true", "false"]),
        ("BYTES", texts("ja", "nein"), "label", ["ja", "nein"]),
        ("BYTES", b"\x02\0\0\0\xff\xff" + texts("nein"), "label", [None, "nein"]),
        ("BYTES", texts("ja") + b"\xff\xff\xff\xff", "label", []),
        ("BYTES", texts("ja", "nein")[:-1], "label", []),
        ("FP32", b"\0" * 7, "number", []),
        ("FP32", b"\0" * 12, "number", []),  # three elements in a shape of two
        ("FP7", b"\0" * 8, "number", []),
    ],
)
def test_binary_tensors(datatype: str, packed: bytes, kind: Kind, expected: list[Any]) -> None:
    body, head = binary(("first", "INT8", [3], b"abc"), ("p", datatype, [2], packed))
    assert found("open-inference", body, "outputs.p[*]", kind, head) == expected


def test_a_binary_tensor_without_its_header_or_its_bytes_has_no_prediction() -> None:
    body, head = binary(("p", "FP32", [2], struct.pack("<2f", 0.5, 0.25)))
    assert found("open-inference", body, head=head) == [0.5, 0.25]
    assert found("open-inference", body) == []
    assert found("open-inference", body[:-1], head=head) == []
    assert found("open-inference", body, head=head - 1) == []
    assert found("open-inference", body, head=10**9) == []
    reader = extractor("open-inference")
    assert reader.predictions(gzip.compress(body), "gzip", head) == [0.5, 0.25]


@pytest.mark.parametrize("path", ["sex", "inputs.sex[*]", "inputs[1][*]", "inputs[1].data[*]"])
def test_features_of_open_inference_by_tensor(path: str) -> None:
    request = {"inputs": [output([1, 2], [2, 1], "age"), output(["male", "female"], [2, 1], "sex", "BYTES")]}
    assert sexes("open-inference", request, path) == (2, [1, 0])


def test_features_of_a_matrix_and_of_bytes() -> None:
    matrix = {"inputs": [output([7, 1, 8, 2], [2, 2], "x")]}
    reader = extractor("open-inference", sex=SlicePlan("sex", "inputs.x[*][1]", ("1", "2")))
    assert reader.groups(json.dumps(matrix).encode(), "") == (2, ([0, 1],))
    body, head = binary(("sex", "BYTES", [2], texts("male", "female")), section="inputs")
    assert sexes("open-inference", body, "sex", head) == (2, [1, 0])
    assert sexes("open-inference", body, "sex") == (0, 2)


def test_what_stands_beside_the_tensors() -> None:
    request = {"parameters": {"sex": "male"}, "inputs": []}
    assert sexes("open-inference", request, "parameters.sex") == (0, 1)


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b'{"model_name": "m", "text_output": "yes"}', "label", ["yes"]),
        (b'data: {"text_output": "ye"}\n\ndata: {"text_output": "s"}\n\n', "label", ["yes"]),
        (b'data: {"text_output": "ye"}\n\ndata: {"error": "out of memory"}\n\n', "label", []),
        (b'data: {"text_output": "ye"}\n\ndata: {"text_out', "label", ["ye"]),
        (b'data: {"outputs": [{"data": [0.5]}]}\n\n', "number", [0.5]),
        (b"data: x\n\n", "label", []),
        (b'{"error": "no such model"}', "label", []),
    ],
)
def test_generate_and_its_stream(body: bytes, kind: Kind, expected: list[Any]) -> None:
    assert found("open-inference", body, "", kind) == expected


def test_binary_tensors_of_an_exchange_reach_the_sums() -> None:
    """The header's numbers come with the body, and prediction and slice from behind the JSON."""
    sex = SlicePlan("sex", "sex", ("female", "male"))
    extraction = Extraction("outputs.p[*]", "number", slices=(sex,))
    measured = plan(extraction=extraction, limits=(0.0, 1.0), sliced_metrics={"mean": ("sex",)})
    fold = Fold(route("http://127.0.0.1:1", protocol="open-inference", plan=measured), measured)
    request, request_head = binary(("sex", "BYTES", [1], texts("male")), section="inputs")
    response, response_head = binary(("p", "FP32", [1], struct.pack("<f", 0.5)))
    fact = Fact(1, 0, 0, 0, 1000.0, Ending.ANSWERED, 200, 0.01, -1, False, 1, len(request), len(response))
    body = Body(1, request, response, "", "", request_head, response_head)
    fold.add(fact, fold.read(fact, body))
    series = fold.evidence("s", 1.0, 1.0, {}).series
    assert sum(series[SeriesKey("stable", "sex=male", "mean")].sum) == 0.5
    assert sum(series[SeriesKey("stable", "", "missing")].sum) == 0


# --- MLflow


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        ({"predictions": [0.5, 0.25]}, "number", [0.5, 0.25]),
        ({"predictions": [[0.5], [0.25]]}, "number", [0.5, 0.25]),
        ({"predictions": [{"0": 0.5}, {"0": 0.25}]}, "number", [0.5, 0.25]),
        ({"predictions": {"score": [0.5, 0.25]}}, "number", [0.5, 0.25]),
        ({"predictions": {"score": [0.5], "class": [1]}}, "number", [None]),
        ({"predictions": 0.5}, "number", [0.5]),
        ({"predictions": "approve"}, "label", ["approve"]),
        ({"choices": [{"message": {"content": "yes"}}]}, "label", ["yes"]),
        ({"choices": [{"text": "yes"}]}, "label", ["yes"]),
        ({"messages": [{"content": "thinking"}, {"content": "yes"}]}, "label", ["yes"]),
        ({"output": [{"content": [{"type": "output_text", "text": "yes"}]}]}, "label", ["yes"]),
        ({"error_code": "BAD_REQUEST", "message": "…"}, "number", []),
        ([0.5], "number", []),
    ],
)
def test_mlflow(answer: Any, kind: Kind, expected: list[Any]) -> None:
    assert found("mlflow", answer, "", kind) == expected


def test_a_path_of_mlflow_goes_before_the_default() -> None:
    assert found("mlflow", {"predictions": [{"a": 1, "b": 2}]}, "predictions[*].b") == [2.0]
    assert found("mlflow", {"predictions": {"a": [1], "b": [2]}}, "predictions.b[*]") == [2.0]


MLFLOW_REQUESTS = [
    {"dataframe_split": {"columns": ["age", "sex"], "index": [0, 1], "data": [[7, "male"], [8, "female"]]}},
    {"dataframe_records": [{"sex": "male", "age": 7}, {"sex": "female"}]},
    {"instances": [{"sex": "male"}, {"sex": "female"}]},
    {"instances": {"sex": ["male", "female"]}},
    {"inputs": {"sex": ["male", "female"]}},
    {"inputs": [{"sex": "male"}, {"sex": "female"}], "params": {"sex": "x"}},
    b"age,sex\n7,male\n8,female\n",
    b'"age","sex"\r\n7,"male"\r\n\r\n8,"female"',
]


@pytest.mark.parametrize("request_", MLFLOW_REQUESTS, ids=range(len(MLFLOW_REQUESTS)))
@pytest.mark.parametrize("path", ["sex", "sex[*]"])
def test_a_column_is_found_in_every_request_format_of_mlflow(request_: Any, path: str) -> None:
    assert sexes("mlflow", request_, path) == (2, [1, 0])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"dataframe_split": {"columns": ["age"], "data": [[7]]}}, (0, 2)),
        ({"dataframe_split": {"columns": ["a", "sex"], "data": [[7], "x", [1, "male"]]}}, (3, [2, 2, 1])),
        ({"dataframe_split": {"columns": "sex", "data": 1}}, (0, 2)),
        ({"dataframe_records": [{"age": 7}, 5]}, (2, [2, 2])),
        ({"sex": "male"}, (1, [1])),
        (b"{broken", (0, 2)),
        (b"", (0, 2)),
        (b"\xff\xfe", (0, 2)),
    ],
)
def test_a_column_that_is_not_there_is_other(request_: Any, expected: Any) -> None:
    assert sexes("mlflow", request_, "sex") == expected


def test_numbers_of_csv_fall_into_bins_and_paths_with_a_root_are_plain() -> None:
    age = SlicePlan("age", "age", bins=(0, 40))
    reader = extractor("mlflow", age=age)
    assert reader.groups(b"age\n41\n3.5\n-1\nx\n0041\n", "") == (5, ([1, 0, 2, 2, 2],))
    assert sexes("mlflow", {"instances": [["male"]], "sex": "x"}, "instances[*][0]") == (1, [1])
    nested = {"dataframe_records": [{"who": {"sex": "male"}}]}
    assert sexes("mlflow", nested, "who.sex") == (1, [1])


# --- TorchServe, BentoML, SageMaker


@pytest.mark.parametrize(
    ("answer", "path", "kind", "expected"),
    [
        ({"score": 0.5}, "score", "number", [0.5]),
        ([0.5, 0.25], "[*]", "number", [0.5, 0.25]),
        ([0.5, 0.25], "[1]", "number", [0.25]),
        (b"0.5", "$", "number", [0.5]),
        (b"cat\n", "$", "label", ["cat"]),
        ({"tabby": 0.6, "tiger": 0.4}, "$", "label", ["tabby"]),
        ({"tabby": 0.6, "tiger": 0.4}, "$", "number", [0.6]),
        ({"score": 0.6}, "$", "number", [None]),
        (b"<html>busy</html>", "$", "label", []),
        (b'{"cut": ', "$", "label", []),
        ({"score": 0.5}, "", "number", []),
    ],
)
def test_torchserve(answer: Any, path: str, kind: Kind, expected: list[Any]) -> None:
    assert found("torchserve", answer, path, kind) == expected


@pytest.mark.parametrize(
    ("answer", "path", "kind", "expected"),
    [
        (b"0.5", "", "number", [0.5]),
        ([0.5, 0.25], "", "number", [0.5, 0.25]),
        ([[0.5], [0.25]], "", "number", [0.5, 0.25]),
        ({"score": 0.5}, "", "number", [0.5]),
        ([{"score": 0.5}], "", "number", [0.5]),
        ({"score": 0.5, "label": "a"}, "", "number", [None]),
        ({"score": 0.5, "label": "a"}, "label", "label", ["a"]),
        (b"approve", "", "label", ["approve"]),
        (b'"approve"', "", "label", ["approve"]),
        (b"<html>", "", "label", []),
    ],
)
def test_bentoml(answer: Any, path: str, kind: Kind, expected: list[Any]) -> None:
    assert found("bentoml", answer, path, kind) == expected


def test_features_of_bentoml_are_its_named_parameters() -> None:
    assert sexes("bentoml", {"customer": {"sex": "male"}}, "customer.sex") == (0, 1)


@pytest.mark.parametrize(
    ("answer", "path", "kind", "expected"),
    [
        ({"predictions": [{"score": 0.5}]}, "predictions[*].score", "number", [0.5]),
        (b"0.5", "[*][0]", "number", [0.5]),
        (b"0.5\n0.25\n", "[*][0]", "number", [0.5, 0.25]),
        (b"0.5,0.25", "[0][*]", "number", [0.5, 0.25]),
        (b"1,approve\r\n0,decline\r\n", "[*][1]", "label", ["approve", "decline"]),
        (b'{"score": 0.5}\n{"score": 0.25}\n', "[*].score", "number", [0.5, 0.25]),
        (b'{"score": 0.5}\n{"score": 0.2', "[*].score", "number", []),
        (b"", "[*][0]", "number", []),
        (b"nan", "[*][0]", "number", [None]),
    ],
)
def test_sagemaker(answer: Any, path: str, kind: Kind, expected: list[Any]) -> None:
    assert found("sagemaker", answer, path, kind) == expected


def test_features_of_sagemaker_by_column() -> None:
    assert sexes("sagemaker", b"7,male\n8,female\n", "[*][1]") == (2, [1, 0])


# --- whatever a stranger sends

PATHS = ("", "$", "[*]", "[*][1]", "p[*].x", "outputs.p[*]", "outputs[0][*][1]", "outputs.p[0]", "results[*]")
SLICES = (
    SlicePlan("sex", "sex", ("female", "male")),
    SlicePlan("x", "inputs.x[*][1]", bins=(0, 1)),
    SlicePlan("p", "instances[*].p", ("1", "2")),
)
READERS = [
    Extractor(Extraction(path, kind, slices=SLICES), protocol, frozenset(one.name for one in SLICES))
    for protocol in FORMATS
    for path in PATHS
    for kind in ("number", "label")
]


def check(reader: Extractor, request: bytes, response: bytes, encoding: str, head: int) -> None:
    values, groups = reader.exchange(request, encoding, response, encoding, head, head)
    assert len(groups) == len(SLICES)
    for value in values:
        assert value is None or isinstance(value, str) or math.isfinite(value)
    for group, names in zip(groups, reader.names, strict=True):
        if not isinstance(group, int):
            assert not values or len(group) == len(values)
        for index in (group,) if isinstance(group, int) else group:
            assert 0 <= index < len(names)


@given(st.binary(max_size=200), st.sampled_from(["", "gzip"]), st.integers(-1, 250))
def test_any_bytes_are_survived(body: bytes, encoding: str, head: int) -> None:
    for reader in READERS:
        check(reader, body, body, encoding, head)


scalars = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=4)
    | st.sampled_from(["FP32", "BYTES"])
)
keys = st.sampled_from([
    "predictions", "outputs", "inputs", "instances", "results", "data", "shape", "name", "p", "x", "sex",
    "datatype", "parameters", "binary_data_size", "dataframe_split", "columns", "dataframe_records",
    "choices", "message", "content", "text_output", "error",
])  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
tensor = st.fixed_dictionaries(
    {"name": st.sampled_from(["p", "x", "sex"])},
    optional={
        "shape": st.lists(st.integers(-1, 4), max_size=3) | anything,
        "datatype": st.sampled_from(["FP32", "FP16", "BOOL", "BYTES", "INT64", "BF16"]) | anything,
        "data": st.lists(anything, max_size=6),
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}) | anything,
    },
)
documents = anything | st.fixed_dictionaries(
    {}, optional={"outputs": st.lists(tensor, max_size=2), "inputs": st.lists(tensor, max_size=2)}
)


@given(documents, documents, st.binary(max_size=40), st.booleans())
def test_any_json_with_any_bytes_behind_it_is_survived(one: Any, two: Any, behind: bytes, told: bool) -> None:
    request, response = json.dumps(one).encode(), json.dumps(two).encode()
    for reader in READERS:
        check(reader, request, response, "", -1)
        check(reader, request + behind, response + behind, "", len(response) if told else -1)


DEFAULTS = READERS[:: 2 * len(PATHS)]  # one for each protocol, without a path
LONG = [
    b"[" * 50_000,
    json.dumps({"outputs": [{"name": "p", "shape": [10**4, 1], "data": [0] * 10**4}] * 2}).encode(),
    json.dumps({"outputs": [{"name": "p", "shape": [1] * 10**4, "data": [0]}]}).encode(),
    json.dumps({"outputs": [{"parameters": {"binary_data_size": 1}}] * 50_000}).encode(),
    json.dumps({"results": [[["a", 1]] * 10] * 2_000}).encode(),
    json.dumps({"dataframe_split": {"columns": ["c"] * 10**4, "data": [[]] * 10**4}}).encode(),
    b",".join([b"1"] * 50_000),
    b"1\n" * 50_000,
    b'"' * 100_000,
    b"data: {}\n\n" * 50_000,
    b'{"a": 1}\n' * 50_000,
    b"1" * 100_000,
    b"-" * 100_000,
]


@pytest.mark.parametrize("body", LONG, ids=range(len(LONG)))
def test_a_long_body_takes_its_time_once(body: bytes) -> None:
    for reader in DEFAULTS:
        began = time.process_time()
        check(reader, body, body, "", 1000)
        assert time.process_time() - began < 5  # seconds; 0.1 is usual, quadratic work takes minutes
