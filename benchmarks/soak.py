"""The soak: a whole router at full load while everything around it misbehaves, every answer checked.

Two workers; both services' routes change every second; workers are killed at random times; the shadow and
the candidate hang, fail, abort and refuse in turn. `scripts/bench soak [--minutes 10]`, exit 0 if it held.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from accede.router.parent.admin import admin_call
from accede.store.open import open_store
from accede.store.protocol import Commit, Store
from accede.store.routes import MILLION, Arm, MirrorTarget, ServiceRoute

from . import machine, parts, soak_report
from .scene import Scene, plan, route, started_in
from .soak_client import ClientConfig, Tally
from .soak_report import Process, Soaked
from .started import Failed, Group, free_port

_ALWAYS = 4000  # stable's weight never goes below it, so these users are stable's all the time
_FLAPPING = "good:4,hang:3,good:2,error:2,abort:2,refuse:2"
_SHADOW = "hang:4,good:3,refuse:2,abort:2,error:1"
_EPOCH = 60  # swaps in one epoch: a new one a minute is more than any rollout has


class _Soak:
    def __init__(self, scene: Scene, python: str, seconds: float, every: float, seed: int) -> None:
        self.python = python
        self.scene = scene
        self.seconds = seconds
        self.every = every  # seconds between kills, about
        self.chance = random.Random(seed)
        self.stable = [free_port(), free_port()]
        self.candidate, self.shadow = free_port(), free_port()
        self.kills: list[tuple[float, int]] = []
        self.swaps = 0
        self.tallies: list[Tally] = []
        self.processes: dict[str, Process] = {}
        self.parent = 0
        self.admin = scene.folder / "soaked" / "router" / "admin.sock"

    def routes(self) -> list[ServiceRoute]:
        """The next generation of both services: other weights, rates, addresses, sometimes another epoch."""
        self.swaps += 1
        draw, epoch = self.chance, 1 + self.swaps // _EPOCH
        stable = Arm("stable", "1", _urls(draw.choice((self.stable[:1], self.stable[1:], self.stable))), 0)
        weight = draw.randrange(_ALWAYS, 9500)
        rate = draw.choice((0, MILLION // 2, MILLION))
        shadow = MirrorTarget(
            "2", _urls([self.shadow]), rate, max_in_flight=draw.choice((8, 256)), deadline=5.0
        )
        shared: dict[str, Any] = {
            "generation": self.swaps,
            "salt": None,
            "deadline": 10.0,
            "first_byte": 3.0,
            "plan": plan(epoch=epoch),
        }
        plain = (msgspec.structs.replace(stable, weight=10_000),)
        split = (
            msgspec.structs.replace(stable, weight=weight),
            Arm("candidate", "2", _urls([self.candidate]), 10_000 - weight),
        )
        return [
            route(0, 0, service="plain", path="/plain", arms=plain, mirrors=(shadow,), **shared),
            route(0, 0, service="canary", path="/canary", arms=split, mirrors=(shadow,), **shared),
        ]

    def run(self, connections: int) -> Soaked:
        """Everything, for the time given."""
        scene, group = self.scene, self.scene.group
        everywhere = scene.where.rest | scene.where.proxy
        models = [
            (self.stable[0], "steady"),
            (self.stable[1], "steady"),
            (self.candidate, _FLAPPING),
            (self.shadow, _SHADOW),
        ]
        for port, pattern in models:
            command = [sys.executable, "-m", "benchmarks.soak_upstream", str(port), pattern]
            group.start(f"model-{port}", command, cores=everywhere)
        side = scene.router(*self.routes(), name="soaked", workers=2)
        self.parent = side.others["parent"]
        kinds = {
            "plain": connections // 2,
            "stable": connections // 4,
            "canary": connections - 3 * (connections // 4),
        }
        client = group.start(
            "client",
            [
                sys.executable, "-m", "benchmarks.soak_client",
                msgspec.json.encode(ClientConfig(side.port, kinds, _ALWAYS)).decode(),
            ],
            cores=everywhere, talks=True,
        )  # fmt: skip
        assert client.stdin is not None
        lines = threading.Thread(target=self._read, args=(client.stdout,), daemon=True)
        lines.start()
        began = time.monotonic()
        store = open_store(str(scene.folder / "soaked"))
        try:
            self._during(store, began, client)
        finally:
            store.close()
        client.stdin.close()
        lines.join(60)
        if client.wait(60) or not self.tallies:
            raise Failed(f"the load ended badly: {group.last_words(client)}")
        ended = time.monotonic() - began
        code = group.stop(self.parent)
        log = (scene.folder / "soaked.stderr").read_text(errors="replace")
        return Soaked(
            seconds=ended, connections=connections, began=began, swaps=self.swaps, kills=self.kills,
            spared=self._spared(), tallies=self.tallies, processes=self.processes, exit_code=code,
            tracebacks=log.count("Traceback"),
            machine=machine.described(self.python, started_in(self.python, scene.folder)),
        )  # fmt: skip

    def _during(self, store: Store, began: float, client: Any) -> None:
        """Once a second: new routes, a look at every process, and now and then a kill."""
        next_kill = began + self._pause()
        tick = 0
        while (now := time.monotonic()) < began + self.seconds:
            for one in self.routes():
                store.commit(Commit(one.service, None, 0, one, self.swaps - 1))
            status = admin_call(self.admin, {"do": "status"})
            self._look(status, now - began, whole=tick % 5 == 0)
            if now >= next_kill:
                self._kill(status, now, late=now > began + self.seconds / 4)
                next_kill = now + self._pause()
            self.scene.group.alive(client)
            tick += 1
            if tick % 10 == 0:
                print(
                    f"  {now - began:.0f} s: {_said(self.tallies)}, {len(self.kills)} kills",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(max(0.0, began + tick - time.monotonic()))

    def _pause(self) -> float:
        return self.every * self.chance.uniform(0.7, 1.3)

    def _kill(self, status: dict[str, Any], now: float, *, late: bool) -> None:
        """Any worker in the first quarter; then the last one is spared, to see its memory over time."""
        slots = range(len(status["workers"]) - 1 if late else len(status["workers"]))
        slot = self.chance.choice(list(slots))
        pid = int(status["workers"][slot]["pid"])
        if pid:
            os.kill(pid, signal.SIGKILL)
            self.kills.append((now, slot))

    def _spared(self) -> float:
        """Since when (seconds from the beginning) the last worker lives."""
        return max(
            (process.since for name, process in self.processes.items() if name.startswith("worker 1")),
            default=0.0,
        )

    def _look(self, status: dict[str, Any], at: float, *, whole: bool) -> None:
        pids = {"parent": self.parent, "observer": int(status["observer"]["pid"])}
        for slot, worker in enumerate(status["workers"]):
            pids[f"worker {slot}"] = int(worker["pid"])
        for name, pid in pids.items():
            if not pid:
                continue
            key = name if name == "parent" else f"{name} ({pid})"
            process = self.processes.setdefault(key, Process(since=at))
            taken = machine.memory([pid])
            if taken.rss:
                process.rss.append((at, taken.rss / 2**20))
                process.descriptors.append((at, machine.descriptors(pid)))
                if whole:
                    process.pss.append((at, taken.pss / 2**20))

    def _read(self, lines: Any) -> None:
        for line in lines:
            self.tallies.append(msgspec.json.decode(line.encode(), type=Tally))


def _urls(ports: list[int]) -> tuple[str, ...]:
    return tuple(f"http://127.0.0.1:{port}" for port in ports)


def _said(tallies: list[Tally]) -> str:
    if not tallies:
        return "nothing yet"
    last = tallies[-1]
    right, wrong = sum(last.right.values()), sum(last.wrong.values())
    return f"{right} right, {wrong} wrong, failed {last.failed}, {len(last.reset)} reset"


def main(arguments: list[str], docs: Path) -> int:
    """0: it held; 1: it did not."""
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the report; docs/benchmarks from 10 minutes on")
    parser.add_argument("--python", help="interpreter that runs the router; Accede must be installed there")
    given = parser.parse_args(arguments)
    python = parts.interpreter(given.python)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Group(Path(folder)) as group:
        scene = Scene(group, machine.places(pinned=False), python)
        try:
            soaked = _Soak(scene, python, given.minutes * 60, given.kill_every, given.seed).run(
                given.connections
            )
        except Failed as problem:
            print(f"scripts/bench soak: {problem}", file=sys.stderr)
            return 1
        log = (Path(folder) / "soaked.stderr").read_text(errors="replace")
    judged = soak_report.judged(soaked)
    print(soak_report.text(soaked, judged))
    if soaked.tracebacks:
        print(log[-4000:], file=sys.stderr)
    out = given.out or (docs if given.minutes >= 10 else None)
    if out is not None:
        soak_report.write(soaked, judged, out)
    return int(not all(one.held for one in judged))
