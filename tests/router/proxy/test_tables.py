"""A new table of thousands of services comes into force in slices of time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from accede.router.counters import Counters
from accede.router.facts import Applied, Placed, Table, encode_message
from accede.router.proxy.capture import ObserverLink
from accede.router.proxy.datapath import DataPath, Limits
from accede.router.proxy.reach import Upstreams
from accede.router.proxy.table import RouteTable
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, post, route

MANY = 1500


def _table(number: int, *held: str, count: int = 3) -> Table:
    return Table(
        number,
        tuple(
            Placed(
                route(
                    "http://127.0.0.1:9", "http://127.0.0.1:10", 5000,
                    service=name, path=f"/{name}", generation=number,
                ),
                at, "aborted here: test" if name in held else "",
            )
            for at, name in enumerate(f"s{each}" for each in range(count))
        ),
    )  # fmt: skip


def test_a_slice_compiles_one_service_at_the_least_and_nothing_is_compiled_twice() -> None:
    upstreams = Upstreams(1.0)
    before = RouteTable(_table(1), upstreams)
    begun = RouteTable(_table(2), upstreams, before, at_once=False)
    assert not begun.go_on(0.0)
    assert list(begun.services) == ["s0"]
    overtaking = RouteTable(_table(2), upstreams, before, begun, at_once=False)
    while not overtaking.go_on(0.0):
        pass
    assert overtaking.services["s0"] is begun.services["s0"]  # a stream of tables starves nobody
    assert [one.route.generation for one in overtaking.services.values()] == [2, 2, 2]
    assert overtaking.resolve(b"GET /s2", b"x").service is overtaking.services["s2"]
    assert before.resolve(b"GET /s2", b"x").service.route.generation == 1


def test_a_hold_is_in_force_before_the_table_that_brings_it(tmp_path: Path) -> None:
    async def run() -> None:
        counters = Counters(tmp_path / "counters", 1, create=True)
        link = ObserverLink(str(tmp_path / "nobody"))
        path = DataPath(0, "b", Limits(1.0, 1.0, 1.0, 1.0), counters.cells(0), link, lambda _: None)
        path.apply(_table(1, count=MANY))
        first = path.go_on()
        assert first is not None  # nobody is served yet, so nobody waits
        path.apply(_table(2, f"s{MANY - 1}", count=MANY))
        assert path.go_on() is None
        assert path.table is first
        assert [name for name, one in first.services.items() if one.closed] == [f"s{MANY - 1}"]
        slices = 1
        while path.go_on() is None:
            slices += 1
        assert slices > 3
        assert path.table is not None
        assert path.table.number == 2
        path.pools.close()

    asyncio.run(run())


def test_requests_are_answered_while_every_service_changes(
    start_worker: Callable[..., WorkerProcess], stable: UpstreamProcess
) -> None:
    def placed(generation: int) -> tuple[Placed, ...]:
        return tuple(
            Placed(route(stable.url, service=f"s{at}", path=f"/p{at}", generation=generation), -1)
            for at in range(2 * MANY)
        )

    worker = start_worker(*placed(1))
    answered: list[float] = []
    done = threading.Event()

    def ask() -> None:
        client = Connection(worker.port)
        while not done.is_set():
            client.send(post("/p7"))
            assert client.answer().status == 200
            answered.append(time.monotonic())
        client.close()

    asking = threading.Thread(target=ask)
    asking.start()
    data = encode_message(Table(2, placed(2)))
    while len(answered) < 3:
        time.sleep(0.001)
    worker.control.sendall(data)
    sent = time.monotonic()
    while not (isinstance(message := worker.next_message(), Applied) and message.number == 2):
        pass
    applied = time.monotonic()
    done.set()
    asking.join()
    assert sum(sent < at < applied for at in answered) >= 5
