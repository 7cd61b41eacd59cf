# ruff: noqa: E501  (one case per line)
"""Which calls predict, which version a URL pins, and how a URL is rewritten for a version."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

import pytest

from accede.policies.protocols import PROTOCOLS
from accede.policies.service import Protocol
from accede.router.facts import Placed
from accede.router.proxy.targets import addressed, call_kind
from accede.store.routes import Arm
from tests.router.conftest import UpstreamProcess, WorkerProcess, exchange, post, route

# protocol, method, path, predicts, pinned, what is sent to version 43
CALLS = [
    ("tensorflow-serving", "POST", "/v1/models/m:predict", True, None, "/v1/models/m/versions/43:predict"),
    ("tensorflow-serving", "POST", "/a/v1/models/m:regress", True, None, "/a/v1/models/m/versions/43:regress"),
    ("tensorflow-serving", "POST", "/v1/models/m:classify", True, None, "/v1/models/m/versions/43:classify"),
    ("tensorflow-serving", "POST", "/v1/models/m/versions/7:predict", False, "7", None),
    ("tensorflow-serving", "POST", "/v1/models/m/labels/canary:predict", False, None, None),
    ("tensorflow-serving", "GET", "/v1/models/m", False, None, None),
    ("tensorflow-serving", "GET", "/v1/models/m:predict", False, None, None),
    ("tensorflow-serving", "GET", "/v1/models/m/versions/7", False, "7", None),
    ("tensorflow-serving", "GET", "/v1/models/m/versions/7/metadata", False, "7", None),
    ("kserve-v1", "POST", "/v1/models/m:predict", True, None, None),
    ("kserve-v1", "POST", "/v1/models/m:explain", False, None, None),
    ("kserve-v1", "GET", "/v1/models/m", False, None, None),
    ("open-inference", "POST", "/v2/models/m/infer", True, None, "/v2/models/m/versions/43/infer"),
    ("open-inference", "POST", "/v2/models/m/generate", True, None, "/v2/models/m/versions/43/generate"),
    (
        "open-inference", "POST", "/x/v2/models/m/generate_stream", True, None,
        "/x/v2/models/m/versions/43/generate_stream",
    ),
    ("open-inference", "POST", "/v2/models/m/versions/7/infer", False, "7", None),
    ("open-inference", "POST", "/v2/models/m/versions/v1.2/generate", False, "v1.2", None),
    ("open-inference", "GET", "/v2/models/m/versions/7/ready", False, "7", None),
    ("open-inference", "GET", "/v2/models/m/versions/7", False, "7", None),
    ("open-inference", "GET", "/v2/models/m/ready", False, None, None),
    ("open-inference", "GET", "/v2/models/m/infer", False, None, None),
    ("open-inference", "GET", "/v2/health/ready", False, None, None),
    ("open-inference", "POST", "/v2/repository/models/m/load", False, None, None),
    ("mlflow", "POST", "/invocations", True, None, None),
    ("mlflow", "POST", "/fraud/invocations", True, None, None),
    ("mlflow", "GET", "/ping", False, None, None),
    ("mlflow", "GET", "/health", False, None, None),
    ("mlflow", "GET", "/version", False, None, None),
    ("mlflow", "POST", "/version", False, None, None),
    ("torchserve", "POST", "/predictions/m", True, None, "/predictions/m/43"),
    ("torchserve", "POST", "/predictions/m/1.0", False, "1.0", None),
    ("torchserve", "POST", "/explanations/m", False, None, None),
    ("torchserve", "POST", "/explanations/m/1.0", False, "1.0", None),
    ("torchserve", "GET", "/ping", False, None, None),
    ("torchserve", "OPTIONS", "/predictions/m", False, None, None),
    ("bentoml", "POST", "/summarize", True, None, None),
    ("bentoml", "POST", "/team/summarize", True, None, None),
    ("bentoml", "POST", "/summarize/submit", False, None, None),
    ("bentoml", "GET", "/readyz", False, None, None),
    ("bentoml", "POST", "/livez", False, None, None),
    ("sagemaker", "POST", "/invocations", True, None, None),
    ("sagemaker", "GET", "/ping", False, None, None),
    ("openai", "POST", "/v1/chat/completions", True, None, None),
    ("openai", "POST", "/v1/completions", True, None, None),
    ("openai", "POST", "/llm/v1/embeddings", True, None, None),
    ("openai", "POST", "/v1/responses", False, None, None),
    ("openai", "POST", "/v1/audio/transcriptions", False, None, None),
    ("openai", "GET", "/v1/models", False, None, None),
    ("openai", "GET", "/v1/chat/completions", False, None, None),
    ("json", "POST", "/anything", True, None, None),
    ("json", "GET", "/anything", False, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "method", "path", "predicts", "pinned", "sent"), CALLS)
def test_a_call_is_what_its_protocol_says(
    protocol: str, method: str, path: str, predicts: bool, pinned: str | None, sent: str | None
) -> None:
    kind = call_kind(protocol, method, path)
    assert (kind.predicts, kind.pinned) == (predicts, pinned)
    assert addressed(kind, path, "43") == (sent or path)


def test_every_protocol_has_calls_of_both_kinds_here() -> None:
    assert {(call[0], call[3]) for call in CALLS} == {
        (name, predicts) for name in PROTOCOLS for predicts in (True, False)
    }


def test_the_table_knows_the_protocols_of_the_language() -> None:
    assert tuple(PROTOCOLS) == get_args(Protocol)


@pytest.mark.parametrize(
    ("protocol", "path", "version", "sent"),
    [
        ("tensorflow-serving", "/v1/models/m:predict", "v43", "/v1/models/m:predict"),
        ("open-inference", "/v2/models/m/infer", "2026-05", "/v2/models/m/infer"),
        ("open-inference", "/v2/models/m/infer", "1.0", "/v2/models/m/infer"),
        ("torchserve", "/predictions/m", "1.0", "/predictions/m/1.0"),
        ("torchserve", "/predictions/m", "2.0.1", "/predictions/m/2.0.1"),
        ("torchserve", "/predictions/m", "may", "/predictions/m"),
        ("torchserve", "/predictions/m", "..", "/predictions/m"),
        ("tensorflow-serving", "/v1/models/m:predict", "٣", "/v1/models/m:predict"),
    ],
)
def test_a_version_goes_into_the_url_only_where_its_name_is_one_of_the_servers(
    protocol: str, path: str, version: str, sent: str
) -> None:
    assert addressed(call_kind(protocol, "POST", path), path, version) == sent


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "path", ["/v2/models/" * 700, "/predictions" * 700, "/v1/models/a" * 600 + ":", "/" * 8000]
)
def test_a_long_path_of_a_stranger_takes_no_time(protocol: str, path: str) -> None:
    began = time.process_time()
    call_kind(protocol, "POST", path)
    assert time.process_time() - began < 1  # second; microseconds are usual, a bad pattern takes minutes


@pytest.mark.parametrize(
    ("protocol", "path", "calls"),
    [
        (
            "open-inference",
            "/v2/models/m",
            {
                "/v2/models/m/infer": ("/v2/models/m/versions/2/infer", "candidate"),
                "/v2/models/m/generate?a=b": ("/v2/models/m/versions/2/generate?a=b", "candidate"),
                "/v2/models/m/versions/1/infer": ("/v2/models/m/versions/1/infer", "stable"),
                "/v2/models/m/versions/2/infer": ("/v2/models/m/versions/2/infer", "candidate"),
                "/v2/models/m/versions/7/infer": ("/v2/models/m/versions/7/infer", "stable"),
                "/v2/models/m/config": ("/v2/models/m/config", "stable"),
            },
        ),
        (
            "torchserve",
            "/",
            {
                "/predictions/m": ("/predictions/m/2", "candidate"),
                "/predictions/m/1": ("/predictions/m/1", "stable"),
                "/predictions/m/2": ("/predictions/m/2", "candidate"),
                "/explanations/m": ("/explanations/m", "stable"),
                "/explanations/m/2": ("/explanations/m/2", "candidate"),
            },
        ),
        ("mlflow", "/", {"/invocations": ("/invocations", "candidate"), "/version": ("/version", "stable")}),
        ("bentoml", "/", {"/score": ("/score", "candidate"), "/score/submit": ("/score/submit", "stable")}),
        ("sagemaker", "/", {"/invocations": ("/invocations", "candidate"), "/ping": ("/ping", "stable")}),
        (
            "openai",
            "/v1",
            {
                "/v1/embeddings": ("/v1/embeddings", "candidate"),
                "/v1/responses": ("/v1/responses", "stable"),
            },
        ),
    ],
)
def test_over_sockets_only_predictions_are_split_and_counted(
    start_worker: Callable[..., WorkerProcess],
    start_upstream: Callable[..., UpstreamProcess],
    protocol: str,
    path: str,
    calls: dict[str, tuple[str, str]],
) -> None:
    upstream = start_upstream("both")
    arms = (Arm("stable", "1", (upstream.url,), 0), Arm("candidate", "2", (upstream.url,), 10_000))
    told = route(upstream.url, upstream.url, 10_000, protocol=protocol, path=path, arms=arms)
    worker = start_worker(Placed(told, 0))
    for target, (sent, arm) in calls.items():
        answer = exchange(worker.port, post(target, b"{}"))
        assert answer.field("x-accede-arm") == arm, target
        assert upstream.last()["line"] == f"POST {sent} HTTP/1.1"
    predictions = sum(call_kind(protocol, "POST", target.partition("?")[0]).predicts for target in calls)
    assert worker.counters.read(0).assigned == (0, predictions)
