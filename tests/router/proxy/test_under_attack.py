"""Several troubles at once: what each does alone is tested elsewhere."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from accede.router.facts import Placed
from accede.router.proxy.tls import Pem, server_context
from accede.store.routes import MirrorTarget
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    exchange,
    post,
    route,
    wait_for,
)
from tests.router.proxy.test_tls_in import Authority

Worker = Callable[..., WorkerProcess]


def test_a_client_cannot_make_the_server_negotiate_again(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    context = server_context(Pem.read(files), files)
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_hung_shadow_slow_readers_and_tables_in_a_row_cost_no_answer(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer],
    start_upstream: Callable[..., UpstreamProcess], stable: UpstreamProcess,
) -> None:  # fmt: skip
    shadow = start_upstream("shadow", "hang")

    def placed(generation: int) -> Placed:
        mirror = MirrorTarget("43", (shadow.url,), rate=1_000_000, max_in_flight=64)
        arms = route(stable.url, shadow.url).arms
        return Placed(route(stable.url, mirrors=(mirror,), generation=generation, arms=arms), 0)

    worker = start_worker(placed(1))
    observer = start_observer(worker)
    slow = [Connection(worker.port) for _ in range(40)]
    for client in slow:  # a MiB each, of which nobody reads anything yet
        client.send(post("/p", b"{}", "x-script: big"))
    wrong: list[object] = []
    done = threading.Event()
    answered = [0] * 4

    def ask(index: int) -> None:
        client = Connection(worker.port)
        with contextlib.closing(client):
            while not done.is_set():
                body = json.dumps({"of": index, "at": answered[index]}).encode()
                client.send(post("/p", body))
                answer = client.answer()
                if (answer.status, answer.body) != (200, body):
                    wrong.append(answer)
                answered[index] += 1

    asking = [threading.Thread(target=ask, args=(index,)) for index in range(len(answered))]
    for thread in asking:
        thread.start()
    for generation in range(2, 102):
        worker.apply(placed(generation))
    wait_for(lambda: min(answered) >= 50)
    done.set()
    for thread in asking:
        thread.join()
    assert wrong == []
    for client in slow:
        assert client.answer().status == 200
        client.close()
    count = sum(answered) + len(slow)
    observer.wait_facts(count)
    wait_for(lambda: observer.tally.chosen == count)
    tally = observer.tally
    assert tally.dropped_in_flight > 0
    assert tally.sent + tally.dropped_in_flight == count  # each is accounted for, none twice
    assert tally.sent <= 64 + len(slow)  # the shadow answers what the slow ones ask for
    assert exchange(worker.port, post("/p")).status == 200
