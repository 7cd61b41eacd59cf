"""What the benchmarks compute from what they measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from accede.cli import drawing
from benchmarks import machine, report, sampling, soak_report
from benchmarks.results import Curve, Goal, Line, Profile, Report, Share
from benchmarks.soak_client import Tally
from benchmarks.soak_report import Process, Soaked
from benchmarks.soak_upstream import check_of
from benchmarks.started import Group

WHERE = {"cpu": "c", "cores": "2", "kernel": "6.1", "python": "3.11", "data path": "pure"}


def test_a_ratio_is_paired_by_round() -> None:
    line = Line("r", "t", "µs", {"accede": [2.0, 30.0, 4.0], "nginx": [1.0, 10.0, 4.0]})
    ratio = line.ratio("nginx")
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.0, 3.0)
    assert line.ratio("envoy") is None


def test_a_goal_is_met_missed_or_not_measured() -> None:
    line = Line("r", "t", "µs", {"accede": [18.0], "nginx": [10.0], "envoy": [40.0]})
    assert line.met(Goal("nginx", 1.8)) is True
    assert line.met(Goal("nginx", 1.7)) is False
    assert line.met(Goal("envoy", 0.5, "at least")) is False
    assert line.met(Goal("", 18.0)) is True
    assert line.met(Goal("haproxy", 1.0)) is None


def test_a_goal_that_could_not_be_measured_is_not_met() -> None:
    made = _report(Line("r", "t", "µs", {"accede": [1.0]}, (Goal("", 2.0), Goal("nginx", 1.0))))
    assert report.table(made)[1][-1] == "not measured"


def test_bodies_have_the_designs_size() -> None:
    for start in (sampling.REQUEST, sampling.PREDICTION):
        assert len(sampling.body(start)) == sampling.SIZE


def test_cpu_counts_what_this_process_spends() -> None:
    before = machine.cpu([os.getpid()])
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert machine.cpu([os.getpid()]).total - before.total >= 0.15
    assert machine.cpu([2**22 + 1]).total == 0  # nobody


def test_memory_and_descriptors_of_this_process() -> None:
    assert 2**20 < machine.memory([os.getpid()]).pss <= machine.memory([os.getpid()]).rss
    before = machine.descriptors(os.getpid())
    with Path("/dev/null").open():
        assert machine.descriptors(os.getpid()) == before + 1
    assert machine.descriptors(2**22 + 1) == -1


@pytest.mark.skipif(
    os.getuid() != 0 or not Path("/proc/self/autogroup").exists(), reason="needs root and Linux's autogroups"
)
def test_what_is_put_ahead_outweighs_the_rest(tmp_path: Path) -> None:
    for ahead, weighs in ((False, "nice 0"), (True, "nice -20")):
        with Group(tmp_path, ahead=ahead) as group:
            process = group.start("sleeper", ["sleep", "60"], cores=os.sched_getaffinity(0))
            assert Path(f"/proc/{process.pid}/autogroup").read_text().strip().endswith(weighs)


def test_a_report_is_written_with_all_its_plots(tmp_path: Path) -> None:
    made = _report(
        Line(
            "split", "CPU", "µs", {"accede": [2.0, 3.0], "nginx": [1.0, 1.0]}, (Goal("nginx", 1.8),), "a note"
        ),
    )
    made.curves = [Curve("services", "cost & number", "services", "µs", ((1, (1.0, 2.0)), (10, (2.0, 2.0))))]
    made.profiles = [Profile("split", 30.0, (Share("kernel", 0.5, 15.0),), (), ())]
    report.write(made, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "2.50 (2.00-3.00)" in page
    assert "≤ 1.8 ×nginx | no |" in page
    for name in ("rows", "services", "profile"):
        assert f"({name}.svg)" in page
        assert (tmp_path / f"{name}.svg").read_text().endswith("</svg>\n")
    assert "cost &amp; number" in (tmp_path / "services.svg").read_text()


def test_an_empty_curve_says_so() -> None:
    assert "nothing was measured" in drawing.curves("t", "x", "y", [])


def test_an_answer_is_bound_to_path_and_body() -> None:
    assert check_of(b"/a", b"body") != check_of(b"/b", b"body")
    assert check_of(b"/a", b"body") != check_of(b"/a", b"bodY")


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, ""),
        ({"wrong": {"plain": 1}}, "wrong"),
        ({"failed": {"stable 502": 1}}, "failed requests on stable"),
        ({"failed": {"canary 502": 9}}, ""),
        ({"refused": 1}, "refused"),
        ({"reset": [(130.0, "plain")]}, "without a kill"),
        ({"reset": [(130.0, "canary")]}, ""),
        ({"reset": [(110.1, "canary")] * 3}, "a killed worker"),
        ({"right": {}}, "did reach the router"),
    ],
)
def test_the_soak_is_judged_by_every_promise(change: dict[str, object], broken: str) -> None:
    tally = {"at": 160.0, "right": {"plain": 5000}, "reset": [(110.1, "plain")], **change}
    flat = [(float(t), 40.0) for t in range(60)]
    found = soak_report.judged(_soaked(Tally(**tally), flat))  # type: ignore[arg-type]
    assert [one.promise for one in found if not one.held and broken not in one.promise] == []
    assert (not broken) == all(one.held for one in found)


def test_memory_that_grows_is_broken_and_memory_that_swings_is_not() -> None:
    tally = Tally(160.0, right={"plain": 5000})
    growing = [(float(t), 40.0 + 0.1 * t) for t in range(600)]
    flood = [(float(t), 40.0 + 2.0 * t) for t in range(60)]
    swinging = [(float(t), 40.0 + 10 * (t % 15 > 8)) for t in range(100)]
    assert not all(one.held for one in soak_report.judged(_soaked(tally, growing)))
    assert not all(one.held for one in soak_report.judged(_soaked(tally, flood)))
    assert all(one.held for one in soak_report.judged(_soaked(tally, swinging)))


def _report(line: Line) -> Report:
    return Report("2026-01-01", WHERE, {"nginx": "1"}, 2, 1.0, 64, True, [line], [], [], {})


def _soaked(tally: Tally, points: list[tuple[float, float]]) -> Soaked:
    process = Process(0.0, points, points, [(at, 20.0) for at, _ in points])
    return Soaked(
        seconds=60, connections=2, began=100.0, swaps=60, kills=[(110.0, 0)], spared=0.0, tallies=[tally],
        processes={"parent": process, "observer (1)": process, "worker 1 (2)": process}, exit_code=0,
        tracebacks=0, machine=WHERE,
    )  # fmt: skip
