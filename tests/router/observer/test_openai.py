"""OpenAI-compatible answers: what was said, in how many tokens, when it began, and whether it was all."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.router.facts import PAIR_SHADOW, Body, Ending, Fact, Pair, Placed
from accede.router.observer.fold import Fold
from accede.router.observer.openai import OpenAi, Reply, wants_stream
from accede.store.evidence import ArmCounts, Evidence, SeriesKey, decode_evidence, encode_evidence
from accede.store.histogram import bin_of, value_bin
from accede.store.measurement import CLUSTERS, Extraction, LatencyThresholds, MeasurementPlan, SlicePlan
from accede.store.routes import WIRE, Arm, ServiceRoute
from tests.router.conftest import WorkerProcess, exchange, post, route, wait_for
from tests.router.observer.observing import Observing


def sse(*chunks: Any, done: bool = True, end: str = "\n") -> bytes:
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {text}{end}{end}" for text in [*texts, *(["[DONE]"] if done else [])]).encode()


def said(text: str | None = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    if text is not None:
        delta["content"] = text
    return {"id": "x", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def read(
    body: bytes, path: str = "", encoding: str = "", marks: list[tuple[int, float]] | None = None
) -> Reply:
    return OpenAi(path, number=False).reply(body, encoding, marks or [])


CHAT = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}
STREAM = sse(said(role="assistant", text=""), said("Ye"), said("s."), said(finish="stop"))


class TestWholeAnswers:
    def test_a_chat_says_its_first_choice(self) -> None:
        assert read(json.dumps(CHAT).encode()) == Reply(["Yes."], tokens=2)

    def test_a_completion_says_its_text(self) -> None:
        body = {"choices": [{"text": "Yes", "finish_reason": "length"}], "usage": {"completion_tokens": 1}}
        assert read(json.dumps(body).encode()) == Reply(["Yes"], limited=True, tokens=1)

    def test_every_embedding_is_a_prediction_and_no_token_is_put_out(self) -> None:
        body = {"data": [{"embedding": [0.5, 1]}, {"embedding": [2, 3]}], "usage": {"prompt_tokens": 9}}
        assert read(json.dumps(body).encode()) == Reply([[0.5, 1], [2, 3]])

    def test_calls_of_tools_and_refusals_are_said_too(self) -> None:
        call = {"type": "function", "function": {"name": "search", "arguments": '{"q": 1}'}}
        message = {"content": None, "tool_calls": [call, call]}
        assert read(json.dumps({"choices": [{"message": message}]}).encode()).values == [
            'search({"q": 1})\nsearch({"q": 1})'
        ]
        assert read(b'{"choices":[{"message":{"content":null,"refusal":"No."}}]}').values == ["No."]

    @pytest.mark.parametrize("body", [b'{"error": {"message": "m"}}', b'{"object": "error", "message": "m"}'])
    def test_an_error_under_200_is_an_error(self, body: bytes) -> None:
        assert read(body) == Reply(None, failed=True)

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"[]", b"3", b"{", b"<html>", b'{"choices": []}', b'{"choices": [3]}', b'{"choices": {}}',
            b'{"error": null}',
        ],
    )  # fmt: skip
    def test_what_is_no_answer_says_nothing_and_is_no_error(self, body: bytes) -> None:
        reply = read(body)
        assert (reply.values, reply.failed, reply.tokens) == (None, False, None)

    @pytest.mark.parametrize("count", [-1, 1e9, 10**30, "7", None, True, [1]])
    def test_counts_that_are_none_are_not_counted(self, count: Any) -> None:
        assert read(json.dumps({**CHAT, "usage": {"completion_tokens": count}}).encode()).tokens is None

    def test_a_path_of_the_file_comes_first(self) -> None:
        body = {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}
        assert read(json.dumps(body).encode(), "choices[*].message.content").values == ["a", "b"]
        assert read(json.dumps({**CHAT, "score": 3}).encode(), "score").values == [3]


class TestStreams:
    def test_a_stream_says_what_the_whole_answer_would(self) -> None:
        assert read(STREAM) == Reply(["Yes."], streamed=True, tokens=2)
        assert read(STREAM, "choices[0].message.content").values == ["Yes."]
        assert read(STREAM.replace(b"\n", b"\r\n")).values == ["Yes."]
        assert read(b"\xef\xbb\xbf: ping\n\n" + STREAM).values == ["Yes."]

    def test_usage_in_the_last_chunk_counts_better_than_pieces(self) -> None:
        usage = {"choices": [], "usage": {"completion_tokens": 17}}
        assert read(sse(said("Yes"), said(finish="stop"), usage)).tokens == 17

    def test_completions_stream_text(self) -> None:
        chunks = [{"choices": [{"index": 0, "text": text}]} for text in ("Ye", "s", "")]
        assert read(sse(*chunks)) == Reply(["Yes"], streamed=True, tokens=2)

    def test_choices_are_told_apart_by_their_index(self) -> None:
        body = sse(said("b", index=1), said("a"), said("B", index=1), said("A"), done=True)
        assert read(body, "choices[*].message.content").values == ["aA", "bB"]
        assert read(body).values == ["aA"]
        assert read(sse(said("b", index=1))).values == [None]

    def test_calls_of_tools_come_in_pieces(self) -> None:
        def call(index: int, name: str | None, arguments: str) -> dict[str, Any]:
            return said(tool_calls=[{"index": index, "function": {"name": name, "arguments": arguments}}])

        body = sse(call(0, "search", ""), call(0, None, '{"q"'), call(1, "stop", "{}"), call(0, None, ": 1}"))
        assert read(body).values == ['search({"q": 1})\nstop({})']
        assert read(body).tokens == 4

    def test_thoughts_are_tokens_and_no_text(self) -> None:
        reply = read(sse(said(reasoning_content="Hm"), said("Yes"), said(finish="stop")))
        assert (reply.values, reply.tokens) == (["Yes"], 2)

    @pytest.mark.parametrize(
        ("body", "ended", "limited"),
        [
            (STREAM, True, False),
            (sse(said("a"), said(finish="stop"), done=False), True, False),
            (sse(said("a")), True, False),  # [DONE] alone says it too
            (sse(said("a"), done=False), False, False),
            (sse(said("a"), said(finish="length")), True, True),
            (sse(said("a", "stop"), said("b", index=1), done=False), False, False),
            (STREAM[:-3], True, False),  # the reason to finish had come
            (sse(said("a"))[:-3], False, False),  # [DONE] without its empty line was not sent in full
            (b": ping\n\n", False, False),
        ],
    )
    def test_the_end_of_a_stream_is_said_or_it_is_cut(self, body: bytes, ended: bool, limited: bool) -> None:
        reply = read(body)
        assert (reply.ended, reply.limited, reply.streamed) == (ended, limited, True)

    @pytest.mark.parametrize(
        "event",
        [
            b'data: {"error": {"message": "out of memory"}}\n\n',
            b'data: {"object": "error", "message": "m"}\n\n',
            b"event: error\ndata: out of memory\n\n",
        ],
    )
    def test_an_error_in_a_stream_is_an_error_and_not_its_end(self, event: bytes) -> None:
        reply = read(sse(said("Ye"), done=False) + event + b"data: [DONE]\n\n")
        assert (reply.failed, reply.values, reply.ended) == (True, None, False)

    def test_nothing_after_done_is_read(self) -> None:
        assert read(STREAM + sse(said("more"), {"error": 1})) == read(STREAM)

    def test_nan_among_probabilities_loses_no_text(self) -> None:
        chunk = '{"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"p": NaN}}]}'
        assert read(sse(chunk, said("b"))).values == ["ab"]

    def test_a_chunk_that_is_none_says_nothing(self) -> None:
        wrong = [
            "nonsense",
            "[" * 100_000,
            {"choices": 3},
            {"choices": [{"delta": {"content": 3}}]},
            "",
            "null",
            "[1]",
        ]
        assert read(sse(*wrong, said("a"), said("x", index=-1), said("x", index=10**9))).values == ["a"]

    def test_the_first_output_is_timed_by_the_piece_that_ended_its_event(self) -> None:
        opening = sse(said(role="assistant", text=""), done=False)
        first = sse(said("Ye"), done=False)
        marks = [(len(opening), 0.2), (len(opening) + 5, 0.5), (len(opening) + len(first), 0.7), (10**6, 0.9)]
        assert read(STREAM, marks=marks).first == 0.7
        assert read(STREAM).first is None
        # Marks count bytes as they were sent: of a compressed stream they tell nothing.
        zipped = read(gzip.compress(STREAM), encoding="gzip", marks=marks)
        assert (zipped.values, zipped.first) == (["Yes."], None)
        assert not read(sse(said(role="assistant"), said(finish="stop"))).spoke

    @given(st.binary(max_size=60), st.integers(0, len(STREAM)))
    def test_any_bytes_in_a_stream_are_read(self, noise: bytes, at: int) -> None:
        body = STREAM[:at] + noise + STREAM[at:]
        for one in (body, b"data: " + noise + b"\n\n", body[: at + 7]):
            reply = read(one)
            assert reply.values is None or len(reply.values) == 1


@pytest.mark.parametrize(
    ("request_body", "wanted"),
    [
        (b'{"stream": true}', True), (b'{"stream": false}', False), (b'{"stream": "true"}', False),
        (b'{"stream": true, "t": NaN}', True), (b"", False), (b"[]", False), (b"{}", False),
        (b"\xff", False), (b"[" * 99_999, False),
    ],
)  # fmt: skip
def test_a_request_says_whether_it_wants_a_stream(request_body: bytes, wanted: bool) -> None:
    assert wants_stream(request_body, "") == wanted
    assert wants_stream(gzip.compress(request_body), "gzip") == wanted


SECOND = bin_of(1.0)
PLAN = MeasurementPlan(
    rollout="r", epoch=3, stage="canary", batch=5.0, account_after=10.0, streams=True, tokens=100.0,
    extraction=Extraction("", "text", None, None, (SlicePlan("team", "metadata.team", ("a", "b")),)),
    thresholds=(
        LatencyThresholds("latency.p95", SECOND, SECOND + 10, SECOND + 20),
        LatencyThresholds("stream.first_token.p50", SECOND, SECOND + 10, SECOND + 20),
    ),
    sliced_metrics={"missing": ("team",), "agreement": ("team",)},
)  # fmt: skip
ASKED = b'{"model": "m", "stream": true, "metadata": {"team": "a"}}'


def fold(plan: MeasurementPlan = PLAN) -> Fold:
    arms = (Arm("stable", "1", ("http://a",), 5000), Arm("candidate", "2", ("http://b",), 5000))
    route = ServiceRoute(
        wire=WIRE, service="s", generation=1, path="/", host=None, protocol="openai", arms=arms, plan=plan
    )
    return Fold(route, plan)


def fact(**changes: Any) -> Fact:
    base = Fact(1, 0, 0, 0, 12.0, Ending.ANSWERED, 200, 3.0, -1, False, 1, 10, 10, 0.25, 0.1)
    changes.setdefault("served", changes.get("arm", 0))
    return msgspec.structs.replace(base, **changes)


def body(response: bytes = STREAM, request: bytes = ASKED, **changes: Any) -> Body:
    return msgspec.structs.replace(Body(1, request, response, "", ""), **changes)


def added(*exchanges: tuple[Fact, Body | None], into: Fold | None = None) -> Evidence:
    into = into or fold()
    for one, its in exchanges:
        into.add(one, into.read(one, its))
    evidence = into.evidence("replica:boot", 100.0, 99.0, {})
    assert decode_evidence(encode_evidence(evidence)) == evidence
    return evidence


def sums(evidence: Evidence, arm: Any, metric: str, group: str = "") -> tuple[float, float, float] | None:
    series = evidence.series.get(SeriesKey(arm, group, metric))
    return None if series is None else (sum(series.n), sum(series.sum), sum(series.square))


FIRST = "stream.first_token.p50"


class TestEvidence:
    def test_a_stream_gives_its_facts_to_the_sums(self) -> None:
        evidence = added((fact(arm=1), body(marks=[(10**6, 1.3)])))
        assert evidence.arms == {"candidate": ArmCounts(accounted=1)}
        assert [sums(evidence, "candidate", f"{FIRST}.{part}") for part in ("over", "mid", "far")] == [
            (1, 1, 1), (1, 1, 1), (1, 0, 0),
        ]  # fmt: skip
        assert sums(evidence, "candidate", "stream.truncated") == (1, 0, 0)
        assert sums(evidence, "candidate", "tokens.output") == pytest.approx((1, 0.02, 0.0004))
        assert sums(evidence, "candidate", "tokens.limited") == (1, 0, 0)
        assert (
            sums(evidence, "candidate", "missing")
            == sums(evidence, "candidate", "missing", "team=a")
            == (1, 0, 0)
        )
        assert evidence.first_token == {"candidate": {bin_of(1.3): 1}}
        assert sums(evidence, "stable", "stream.truncated") is None
        assert evidence.labels == {}

    def test_without_marks_the_first_byte_stands_for_the_first_token(self) -> None:
        evidence = added((fact(), body()))
        assert evidence.first_token == {"stable": {bin_of(0.25): 1}}
        assert sums(evidence, "stable", f"{FIRST}.over") == (1, 0, 0)

    def test_an_answer_that_is_no_stream_has_tokens_only(self) -> None:
        evidence = added((fact(), body(json.dumps(CHAT).encode())))
        assert sums(evidence, "stable", "tokens.output") == pytest.approx((1, 0.02, 0.0004))
        assert sums(evidence, "stable", "missing") == (1, 0, 0)
        for metric in (f"{FIRST}.over", "stream.truncated"):
            assert sums(evidence, "stable", metric) is None

    @pytest.mark.parametrize(
        ("ending", "status", "served", "first", "over", "truncated"),
        [
            # y of each series; None: no y
            (Ending.ANSWERED, 500, 0, 0.1, 1, None),
            (Ending.CONNECT, 0, 0, 0.0, 1, None),
            (Ending.TIMEOUT, 0, 0, 0.0, 1, None),
            (Ending.TIMEOUT, 200, 0, 0.1, 1, 1),
            (Ending.TRUNCATED, 200, 0, 0.1, 1, 1),
            (Ending.TRUNCATED, 200, 0, 0.0, 1, None),
            (Ending.ANSWERED, 200, 1, 0.1, 1, None),  # another arm had to answer
            (Ending.DISCONNECTED, 200, 0, 0.1, 0, None),
            (Ending.DISCONNECTED, 0, 0, 0.0, 1, None),  # gave up after 3 s without a token
            (Ending.OPEN, 200, 0, 0.1, 0, None),
            (Ending.OPEN, 0, 0, 0.0, 1, None),
        ],
    )
    def test_every_ending_counts_as_it_should(
        self, ending: Ending, status: int, served: int, first: float, over: int, truncated: int | None
    ) -> None:
        one = fact(ending=ending, status=status, served=served, first=first)
        evidence = added((one, body(STREAM if served else b"")))
        assert sums(evidence, "stable", f"{FIRST}.over") == (1, over, over)
        assert sums(evidence, "stable", "stream.truncated") == (
            None if truncated is None else (1, truncated, truncated)
        )
        assert sums(evidence, "stable", "tokens.output") is None
        not_a_stream = added((one, body(b"", b"{}")))
        assert sums(not_a_stream, "stable", f"{FIRST}.over") is None

    def test_the_part_of_an_open_stream_tells_when_it_began(self) -> None:
        part = sse(said("a"), done=False)
        evidence = added((fact(ending=Ending.OPEN, first=0.1), body(part, marks=[(3, 0.1), (10**6, 2.0)])))
        assert sums(evidence, "stable", f"{FIRST}.far") == (1, 1, 1)
        assert sums(evidence, "stable", "stream.truncated") is None
        assert sums(evidence, "stable", "tokens.output") is None

    def test_an_error_in_a_stream_is_an_error_of_the_model(self) -> None:
        evidence = added((fact(latency=0.1), body(sse(said("a"), {"error": {"message": "m"}}))))
        assert sums(evidence, "stable", "errors") == (1, 1, 1)
        assert sums(evidence, "stable", "latency.p95.far") == (1, 1, 1)
        assert sums(evidence, "stable", f"{FIRST}.far") == (1, 1, 1)
        assert sums(evidence, "stable", "stream.truncated") == (1, 1, 1)
        assert sums(evidence, "stable", "missing") == (1, 1, 1)
        assert sums(evidence, "stable", "extraction") is None
        assert evidence.latency == {}

    def test_a_stream_that_is_cut_says_so(self) -> None:
        evidence = added((fact(), body(sse(said("a"), done=False))))
        assert sums(evidence, "stable", "stream.truncated") == (1, 1, 1)
        assert sums(evidence, "stable", "errors") == (1, 0, 0)

    def test_a_stream_without_any_output_counts_by_its_whole_duration(self) -> None:
        evidence = added((fact(latency=1.3), body(sse(said(role="assistant"), said(finish="stop")))))
        assert sums(evidence, "stable", f"{FIRST}.mid") == (1, 1, 1)
        assert sums(evidence, "stable", "missing") == (1, 1, 1)
        assert evidence.first_token == {}

    def test_without_bodies_there_is_nothing_to_say_about_streams(self) -> None:
        evidence = added((fact(captured=0), None))
        assert not [key for key in evidence.series if key.metric.startswith(("stream", "tokens"))]

    def test_the_baseline_keeps_what_limits_and_thresholds_come_from(self) -> None:
        plan = msgspec.structs.replace(PLAN, stage="baseline", tokens=None, thresholds=())
        evidence = added((fact(), body()), (fact(), body()), into=fold(plan))
        assert evidence.tokens == {value_bin(2): 2}
        assert evidence.first_token == {"stable": {bin_of(0.25): 2}}
        assert sums(evidence, "stable", "tokens.output") is None
        assert evidence.labels == {}  # nobody keeps what a model wrote

    def test_tokens_of_sticky_units_are_kept_by_unit(self) -> None:
        evidence = added((fact(unit=7), body()), into=fold(msgspec.structs.replace(PLAN, sticky=True)))
        series = evidence.series[SeriesKey("stable", "", "tokens.output")]
        assert len(series.n) == CLUSTERS
        assert series.n[7] == 1

    def test_several_choices_are_several_predictions_of_one_stream(self) -> None:
        plan = msgspec.structs.replace(
            PLAN, extraction=Extraction("choices[*].message.content", "text"), sliced_metrics={}
        )
        evidence = added((fact(), body(sse(said("a"), said(role="x", index=1)))), into=fold(plan))
        assert sums(evidence, "stable", "missing") == (1, 1, 1)  # any of them
        assert sums(evidence, "stable", f"{FIRST}.over") == (1, 0, 0)
        assert sums(evidence, "stable", "tokens.output") == pytest.approx((1, 0.01, 0.0001))

    def test_a_plan_without_streams_makes_no_such_sums(self) -> None:
        plain = fold(msgspec.structs.replace(PLAN, extraction=None))
        assert plain.read(fact(), body()) is None


def pair(stable: bytes, shadow: bytes, **changes: Any) -> Pair:
    base = Pair(
        1, 0, 12.0, Ending.ANSWERED, 200, 0.1, Ending.ANSWERED, 200, 0.1, False, ASKED, stable, shadow,
        "", "", "", PAIR_SHADOW,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def paired(*pairs: Pair, plan: MeasurementPlan = PLAN) -> Evidence:
    folded = fold(msgspec.structs.replace(plan, stage="shadow"))
    for one in pairs:
        folded.add_pair(one, folded.read_pair(one))
    evidence = folded.evidence("replica:boot", 100.0, 99.0, {})
    assert decode_evidence(encode_evidence(evidence)) == evidence
    return evidence


class TestPairs:
    def test_the_same_text_agrees_however_it_was_sent(self) -> None:
        other = sse(said("No"), said(finish="stop"))
        evidence = paired(pair(STREAM, json.dumps(CHAT).encode()), pair(STREAM, STREAM), pair(STREAM, other))
        assert (
            sums(evidence, "pair", "agreement") == sums(evidence, "pair", "agreement", "team=a") == (3, 2, 2)
        )

    def test_tokens_and_cut_streams_are_compared_on_the_same_request(self) -> None:
        longer = sse(*[said("x")] * 12, done=False)
        evidence = paired(pair(STREAM, longer))
        assert sums(evidence, "pair", "tokens.output") == pytest.approx((1, 0.1, 0.01))
        assert sums(evidence, "paired_stable", "tokens.output") == pytest.approx((1, 0.02, 0.0004))
        assert sums(evidence, "pair", "stream.truncated") == (1, 1, 1)

    def test_a_shadow_that_tells_an_error_has_failed(self) -> None:
        evidence = paired(pair(STREAM, sse(said("Ye"), {"error": "m"})))
        assert sums(evidence, "pair", "errors") == (1, 1, 1)
        assert sums(evidence, "pair", "missing") == (1, 1, 1)
        assert sums(evidence, "pair", "agreement") == (1, 0, 0)
        assert sums(evidence, "pair", "stream.truncated") == (1, 1, 1)

    def test_a_shadow_that_is_cut_off_is_truncated(self) -> None:
        evidence = paired(pair(STREAM, b"", shadow_ending=Ending.TRUNCATED))
        assert sums(evidence, "pair", "stream.truncated") == (1, 1, 1)
        assert sums(evidence, "pair", "tokens.output") is None

    def test_a_copy_in_an_unknown_coding_is_missing_and_is_complained_about(self) -> None:
        folded = fold(msgspec.structs.replace(PLAN, stage="shadow"))
        one = pair(STREAM, b"(\xb5/\xfd", shadow_encoding="zstd")
        folded.add_pair(one, folded.read_pair(one))
        evidence = folded.evidence("replica:boot", 100.0, 99.0, {})
        assert sums(evidence, "pair", "missing") == (1, 1, 1)
        (line,) = folded.complaints
        assert line.startswith("service s: answers of candidate cannot be read: content-encoding zstd: ")
        assert evidence.arms["candidate"].undecodable == 1

    @pytest.mark.parametrize(("within", "agreed"), [(0.0, 1), (0.01, 1), (0.3, 2), (1.0, 3), (2.0, 4)])
    def test_embeddings_agree_by_their_angle(self, within: float, agreed: int) -> None:
        def answer(*vectors: Any) -> bytes:
            return json.dumps({"data": [{"embedding": vector} for vector in vectors]}).encode()

        packed = base64.b64encode(struct.pack("<2f", 2, 0)).decode()
        plan = msgspec.structs.replace(
            PLAN, extraction=Extraction("", "vector", None, within), sliced_metrics={}
        )
        stable = [[1, 0]] * 6
        shadow = [
            packed,
            [1, 1],
            [0, 1],
            [-1, 0],
            [1, 0, 0],
            [0, 0],
        ]  # distances 0, 0.29, 1, 2, none, missing
        evidence = paired(pair(answer(*stable), answer(*shadow)), plan=plan)
        assert sums(evidence, "pair", "agreement") == pytest.approx((1, agreed / 6, (agreed / 6) ** 2))
        assert sums(evidence, "pair", "missing") == (1, 1, 1)


class Streaming(BaseHTTPRequestHandler):
    """A model server whose first token takes 0.3 s; /v1/completions ends without a word."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._say(sse(said(role="assistant", text=""), done=False))
        time.sleep(0.3)
        self._say(sse(said("Yes"), done=False))
        if self.path != "/v1/completions":
            self._say(sse(said(finish="stop")))
        self.wfile.write(b"0\r\n\r\n")

    def _say(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Streaming)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_streams_through_worker_and_observer_are_timed_by_their_first_token(
    start_worker: Callable[..., WorkerProcess], upstream: str, tmp_path: Path
) -> None:
    first, second = bin_of(0.3), bin_of(3.0)
    measured = msgspec.structs.replace(
        PLAN, rollout="r1", thresholds=(LatencyThresholds("stream.first_token.p50", first, second, second),)
    )
    one = Placed(route(upstream, path="/v1", protocol="openai", plan=measured), 0)
    worker = start_worker(one)
    observer = Observing(worker, one, tmp_path / "store")
    try:
        for path in ("/v1/chat/completions", "/v1/completions"):
            answer = exchange(worker.port, post(path, ASKED))
            assert answer.status == 200
        wait_for(lambda: observer.accounted() == 2)
    finally:
        worker.stop()
        said_aloud = observer.end()
    assert said_aloud == ""
    evidence = observer.evidence()
    assert evidence is not None
    # The empty opening chunk came at once: what counts is the first piece of text.
    assert sums(evidence, "stable", f"{FIRST}.over") == (2, 2, 2)
    assert sums(evidence, "stable", "stream.truncated") == (2, 1, 1)
    assert sums(evidence, "stable", "missing") == (2, 0, 0)
    assert sums(evidence, "stable", "tokens.output") == pytest.approx((2, 0.02, 0.0002))
