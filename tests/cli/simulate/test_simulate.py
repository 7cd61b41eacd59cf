"""`accede simulate` on recordings that the router's recorder wrote."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accede.cli.simulate.summary import wilson
from accede.router.facts import Body, Ending, Fact, Pair
from accede.router.observer.extract import FORMATS
from accede.router.observer.recorder import Recorder
from accede.store.routes import RouteRecording

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SERVICE = """\
format: accede/v1
kind: ModelService
name: credit
match: {path: /v1/models/credit}
protocol: kserve-v1
versions:
  "1": {url: "http://127.0.0.1:9101"}
  "2": {url: "http://127.0.0.1:9102"}
stable: "1"
policy: policy.yaml
side_effects: none
prediction: {path: "predictions[0].score", type: number, range: [0, 1], selected: ">= 0.5"}
slices:
  group: {path: "instances[0].group", values: [a, b]}
  region: {path: "instances[0].region", values: [n, s]}
recording: {sample: 100%, request: ["instances[0].group"]}
"""
POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: simulated
baseline: {requests: 500, for: 1m}
steps:
  - {canary: 20%, for: 2m, requests: 100}
  - {approve: {group: model-risk, count: 2}}
  - {canary: 50%, until: gates, for: 3m}
gates:
  - {metric: errors, max_increase: 3pp}
  - {metric: latency.p50, max_ratio: 1.5}
  - {metric: prediction.mean, max_shift: 0.3sd}
  - {metric: selection_rate, by: group, max_shift: 12pp}
  - {metric: selection_rate, by: region, max_shift: 12pp}
"""
RULE = RouteRecording(sample=1.0, request=("instances[0].group",), max_bytes=16 * 2**20)


def recorded(folder: Path, requests: int, *, shift: float | None = None) -> Path:
    """Written by the recorder itself: exchanges of stable, or pairs with a candidate shifted by `shift`."""
    complaints: list[str] = []
    recorder = Recorder(folder / "recordings", complaints.append)
    form = FORMATS["kserve-v1"]("predictions[0].score", number=True)
    recording = recorder.recording("credit", "credit-1", 0, RULE, form)
    assert recording is not None
    chance = random.Random(5)
    for number in range(requests):
        at = 1.7e9 + number * 0.1
        x, failed = chance.random(), chance.random() < 0.02
        body = json.dumps({"instances": [{"x": x, "group": chance.choice("ab")}]}).encode()
        status, latency = (500 if failed else 200), chance.lognormvariate(-3.0, 0.5)
        values = [] if failed else [x]
        if shift is None:
            fact = Fact(number, 0, 0, 0, at, Ending.ANSWERED, status, latency, -1, False, 1, len(body), 10)
            recording.exchange(fact, Body(number, body, b"{}", "", ""), values, at)
            continue
        pair = Pair(
            number, 0, at, Ending.ANSWERED, status, latency, Ending.ANSWERED, 200, latency, False, body, b"",
            b"", "", "", "",
        )  # fmt: skip
        recording.pair(pair, values, [min(1.0, x + shift)], at)
    recorder.close()
    assert complaints == []
    return folder / "recordings" / "credit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("simulate")
    (made / "service.yaml").write_text(SERVICE)
    (made / "policy.yaml").write_text(POLICY)
    recorded(made, 12_000)
    return made


@pytest.fixture
def simulate(accede: Run, folder: Path) -> Callable[..., dict[str, Any]]:
    def run(*more: str | Path, recording: Path | None = None) -> dict[str, Any]:
        found = accede(
            "simulate", folder / "service.yaml", "-r", recording or folder / "recordings" / "credit",
            "-o", "json", *more,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        told: dict[str, Any] = msgspec.json.decode(found.stdout)
        return told

    return run


class TestStableAgainstItself:
    def test_it_is_promoted_and_not_rolled_back(self, simulate: Callable[..., dict[str, Any]]) -> None:
        found = simulate("--runs", "10")
        assert found["promoted"]["count"] >= 8
        assert found["rolled_back"]["count"] <= 1
        assert [step["act"] for step in found["first"]] == ["advance", "advance", "promote"]
        assert found["promoted"]["after_median"] > 360
        assert "approve steps are left out, as if everybody approved at once" in found["notes"][0]

    def test_what_was_not_recorded_is_named_with_what_to_write(
        self, simulate: Callable[..., dict[str, Any]]
    ) -> None:
        assert simulate("--runs", "1")["left_out"] == [
            (
                "selection_rate by region: add instances[0].region to "
                "`recording: {request: [instances[0].region]}`"
            )
        ]

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same(self, simulate: Callable[..., dict[str, Any]]) -> None:
        assert simulate("--runs", "3") == simulate("--runs", "3")


class TestHarm:
    @pytest.mark.parametrize(
        ("inject", "gate"),
        [
            (["errors=+15pp"], "errors"),
            (["latency=x2"], "latency.p50"),
            (["score=+1sd"], "prediction.mean"),
            (["score=+0.4@group=b"], "selection_rate"),
        ],
    )
    def test_it_is_found(self, simulate: Callable[..., dict[str, Any]], inject: list[str], gate: str) -> None:
        found = simulate("--runs", "6", *(word for one in inject for word in ("--inject", one)))
        assert found["rolled_back"]["count"] == 6
        assert found["rolled_back"]["exposed_median"] > 0
        last = found["first"][-1]
        assert last["act"] == "rollback"
        assert gate in last["reason"]

    @pytest.mark.slow
    def test_a_larger_harm_is_found_sooner(self, simulate: Callable[..., dict[str, Any]]) -> None:
        large, small = (simulate("--runs", "6", "--inject", f"errors=+{pp}pp") for pp in (30, 8))
        assert large["rolled_back"]["exposed_median"] < small["rolled_back"]["exposed_median"]

    @pytest.mark.parametrize("text", [
            "errors=2%", "speed=x2", "latency=+2", "score=big", "errors=+200pp", "errors=+2pp@",
            f"latency=x{'9' * 400}",
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_is_refused(self, accede: Run, folder: Path, text: str) -> None:
        found = accede(
            "simulate", folder / "service.yaml", "-r", folder / "recordings" / "credit", "--inject", text
        )
        assert found.returncode == 2
        assert "allowed: errors=+2pp" in found.stderr


class TestPairs:
    @pytest.mark.parametrize(("shift", "act"), [(0.0, "promote"), (0.4, "rollback")])
    def test_the_recorded_candidate_is_judged(
        self, simulate: Callable[..., dict[str, Any]], tmp_path: Path, shift: float, act: str
    ) -> None:
        recording = recorded(tmp_path, 12_000, shift=shift)
        found = simulate("--pairs", "--runs", "2", recording=recording)
        assert found["first"][-1]["act"] == act


class TestFaults:
    def test_a_short_recording_is_unfinished_never_fine(
        self, simulate: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> None:
        found = simulate("--runs", "2", recording=recorded(tmp_path, 300))
        assert found["unfinished"]["count"] == 2

    def test_a_line_cut_by_a_crash_is_left_out(
        self, simulate: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> None:
        recording = recorded(tmp_path, 300)
        with (recording / "00000001.jsonl").open("a") as file:
            file.write('{"v": 1, "kind": "exch')
        assert (
            "1 lines at the end of a file were cut and left out"
            in simulate("--runs", "1", recording=recording)["notes"]
        )

    def test_garbage_is_named_by_its_line_not_its_content(
        self, accede: Run, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "r.jsonl").write_text('{"v": 2, "kind": "SECRET"}\n{}\n')
        found = accede("simulate", folder / "service.yaml", "-r", tmp_path / "r.jsonl")
        assert found.returncode == 2
        assert "r.jsonl:1:1: is no line of a recording" in found.stderr
        assert "SECRET" not in found.stderr

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"at": 1.7e308}, "r.jsonl:1:1: is no line of a recording: Expected `float` <="),
            ({"at": 5.0}, "holds no recorded exchanges of stable of two moments or more"),
            ({"latency": -1.0}, "r.jsonl:1:1: is no line of a recording: Expected `float` >="),
            ({"status": -1}, "r.jsonl:1:1: is no line of a recording: Expected `int` >="),
            ({"predictions": ["SECRET"]}, "the recording holds predictions that are texts; service 'credit'"),
            ({"kind": "\udcff"}, "r.jsonl:1:1: is no line of a recording: no JSON"),
        ],
    )
    def test_numbers_that_no_router_records_are_refused(
        self, accede: Run, folder: Path, tmp_path: Path, changes: dict[str, Any], told: str
    ) -> None:
        lines = [
            json.dumps({"v": 1, "kind": "exchange", "at": float(n), **changes}, ensure_ascii=False)
            for n in range(1, 4)
        ]
        path = tmp_path / "r.jsonl"
        path.write_bytes("\n".join([*lines, ""]).encode(errors="surrogateescape"))
        found = accede("simulate", folder / "service.yaml", "-r", path)
        assert found.returncode == 2, found.stdout
        assert told in found.stderr
        assert "SECRET" not in found.stderr
        assert "unexpected" not in found.stderr

    def test_a_score_that_is_no_number_cannot_be_moved(
        self, accede: Run, folder: Path, tmp_path: Path
    ) -> None:
        line = '{"v": 1, "kind": "exchange", "at": %d, "predictions": [null]}\n'
        (tmp_path / "r.jsonl").write_text("".join(line % n for n in range(5)))
        found = accede(
            "simulate", folder / "service.yaml", "-r", tmp_path / "r.jsonl", "--inject", "score=+0.2"
        )
        assert found.returncode == 2
        assert "the recorded predictions are no numbers" in found.stderr

    def test_a_recording_without_pairs_says_so(self, accede: Run, folder: Path) -> None:
        found = accede("simulate", folder / "service.yaml", "-r", folder / "recordings" / "credit", "--pairs")
        assert found.returncode == 2
        assert "holds no recorded pairs" in found.stderr

    def test_the_plot_is_written(self, simulate: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
        simulate("--runs", "1", "--plot", tmp_path / "e.svg")
        text = (tmp_path / "e.svg").read_text()
        assert text.startswith("<svg")
        assert text.count("<polyline") >= 4


@pytest.mark.parametrize(
    ("count", "runs", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval(count: int, runs: int, low: float, high: float) -> None:
    """The last row: Newcombe (1998), table I, 81/263, method 3."""
    assert wilson(count, runs) == pytest.approx((low, high), abs=5e-5)
