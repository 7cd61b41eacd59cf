"""A shadow that accepts and never answers, for a minute at full load: users get what they got before."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys

import psutil
import pytest

from tests.e2e.conftest import NAME, PREDICT, SERVICE, Process, Stage

CONNECTIONS = 64
ROUNDS, MIRRORED, PLAIN = 10, 6.0, 3.0  # a minute with the shadow, half a minute without, interleaved
MAX_BYTES = 2 * 2**20
SLACK = 32 * 2**20
# 16 KiB, so that the shadow holds max_bytes long before it holds max_in_flight.
ROW = {"x": 0.4, "group": "a", "pad": "x" * (16 * 2**10)}

SHADOW = """
format: accede/v1
kind: RolloutPolicy
name: hung
baseline: {requests: 50, for: 200ms}
steps:
  - {shadow: 100%, for: 1h, requests: 10}
  - {canary: 50%, for: 1h, requests: 10}
gates:
  - {metric: errors, max_increase: 10pp, in: canary}
"""
WRK = """
wrk.method = "POST"
wrk.body = [==[%s]==]
"""


class Load:
    """Requests as fast as they are answered: wrk, or our own load where it is missing."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        body = json.dumps({"instances": [ROW]})
        self._bodies = stage.folder / "large"
        self._bodies.write_text(body)
        self._script = stage.folder / "post.lua"
        self._script.write_text(WRK % body)

    def rate(self, path: str, seconds: float) -> float:
        """Answers per second. Fails the test if a single request failed."""
        if shutil.which("wrk") is None:
            return self._own(path, seconds)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(self._script)]
        url = f"http://127.0.0.1:{self._stage.port}{path}"
        out = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
        assert "Non-2xx" not in out, out
        assert "Socket errors" not in out, out
        return next(int(line.split()[0]) for line in out.splitlines() if "requests in" in line) / seconds

    def _own(self, path: str, seconds: float) -> float:
        given = {"port": self._stage.port, "path": path, "bodies": str(self._bodies), "rate": 1}
        given |= {"closed": CONNECTIONS, "seconds": seconds}
        load = Process([sys.executable, "-m", "accede.cli.demo.load", json.dumps(given)])
        load.popen.wait(seconds + 30)
        load.end()
        totals = json.loads(load.lines[-1])
        assert totals["failed"] == totals["refused"] == 0, totals
        return float(totals["answered"] / seconds)


def resident(router: psutil.Process) -> int:
    """Bytes of the parent, its workers and its observer."""
    return sum(one.memory_info().rss for one in [router, *router.children(recursive=True)])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_throughput_stays_no_client_fails_and_memory_is_bounded(stage: Stage) -> None:
    stage.model("1", delay=0.0)
    stage.model("2", delay=0.0)
    service = SERVICE + "mirror: {{max_bytes: 2MiB}}\n"
    # The same upstream under another name, which nobody mirrors.
    plain = service.replace("name: credit", "name: plain").replace("models/credit", "models/plain")
    (stage.folder / "services" / "plain.yaml").write_text(
        plain.format(stable=stage.models["1"], candidate=stage.models["2"])
    )
    serving = stage.serve(service=service)
    other = PREDICT.replace(NAME, "plain")
    load = Load(stage)
    # Both are measured alike; only one goes on to its shadow.
    stage.policy_file.write_text(SHADOW.replace("requests: 50, for: 200ms", "requests: 50, for: 1h"))
    begun = stage.accede("start", "plain", "--candidate", "2", "-p", stage.policy_file)
    assert begun.returncode == 0, begun.stderr
    (router,) = (one for one in psutil.Process(serving.popen.pid).children() if "router" in one.cmdline())
    before = 0  # the most that full load without a shadow takes: captured bodies wait in 8 MiB flushes
    for path in (PREDICT, other) * 3:
        load.rate(path, 2.0)
        before = max(before, resident(router))
    stage.change("2", hang=True)
    stage.start(policy=SHADOW)
    load.rate(PREDICT, 1.0)
    stage.until(lambda view: view["phase"] == "shadow")
    ratios: list[float] = []
    grown = 0
    for number in range(ROUNDS):
        sides: list[tuple[str, float]] = [(other, PLAIN), (PREDICT, MIRRORED)]
        rates: dict[str, float] = {}
        for path, seconds in sides if number % 2 else reversed(sides):
            rates[path] = load.rate(path, seconds)
            grown = max(grown, resident(router) - before)
        ratios.append(rates[PREDICT] / rates[other])
        print(f"round {number + 1}: {rates[PREDICT]:.0f}/s mirrored, {rates[other]:.0f}/s not; "
              f"{grown / 2**20:.1f} MiB grown")  # fmt: skip
    ratio = statistics.median(ratios)
    print(f"median throughput with a hung shadow: {ratio:.2f} of that without")
    assert stage.status()["phase"] == "shadow"
    assert stage.counts("2")["shadowed"] > 100
    assert ratio >= 0.8
    assert grown <= MAX_BYTES + SLACK
