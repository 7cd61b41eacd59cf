"""What one client, or very many, can take from a worker: connections, descriptors, time, memory, CPU."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import psutil
import pytest

from accede.router.facts import Ending, Placed
from accede.router.proxy.heads import MAX_FIELDS, MAX_HEAD, Malformed, Names, grown, parse_request
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

Worker = Callable[..., WorkerProcess]
GET = b"GET /p HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 2**20


def cpu(worker: WorkerProcess) -> float:
    times = psutil.Process(worker.process.pid).cpu_times()
    return times.user + times.system


class TestConnections:
    def test_those_beyond_the_limit_are_told_so_and_those_far_beyond_are_cut(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0), connections=32)
        within = [Connection(worker.port) for _ in range(32)]
        for client in within:
            client.send(post("/p"))
            assert client.answer().status == 200
        beyond = [Connection(worker.port) for _ in range(3)]
        for client in beyond:
            client.send(post("/p"))
            answer = client.answer()
            assert (answer.status, answer.field("connection")) == (503, "close")
            assert b"as many connections" in answer.body
        far = Connection(worker.port)
        assert far.ended()
        for client in (*beyond, far, *within[:16]):
            client.close()
        for client in within[16:]:
            client.send(post("/p"))
            assert client.answer().status == 200
            client.close()

        def taken() -> bool:
            try:
                return exchange(worker.port, post("/p")).status == 200
            except EOFError:
                return False

        wait_for(taken)

    def test_few_descriptors_neither_stop_a_worker_nor_make_it_spin(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0), descriptors=64)
        clients = [Connection(worker.port) for _ in range(300)]
        served = told = cut = 0
        for client in clients:
            try:
                client.send(post("/p"))
                status = client.answer().status
            except (EOFError, OSError):
                cut += 1
            else:
                served += status == 200
                told += status == 503
        assert (served, served + told + cut) == (12, 300), (served, told, cut)
        assert told
        before = cpu(worker)
        time.sleep(1.0)  # nothing happens for a second: what a spinning worker would use up
        assert cpu(worker) - before < 0.5
        for client in clients:
            client.close()
        wait_for(lambda: exchange(worker.port, post("/p")).status == 200)

    def test_an_idle_connection_takes_little_memory(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0))
        exchange(worker.port, post("/p"))
        clients: list[Connection] = []
        figures = []
        for count in (100, 500):
            while len(clients) < count:
                client = Connection(worker.port)
                client.send(post("/p"))
                assert client.answer().status == 200
                clients.append(client)
            figures.append(worker.rss())
        each = (figures[1] - figures[0]) / 400
        print(f"one idle connection: {each:.0f} bytes")
        assert each < 16 * 1024
        for client in clients:
            client.close()


class TestHeads:
    def test_a_head_in_single_bytes_costs_no_more_than_its_bytes(self) -> None:
        """Looking at all of it again with each byte would be half a gigabyte of looking here."""
        fields = b"".join(b"a%d: %b\r\n" % (number, b"x" * 400) for number in range(70))
        data = b"GET /p HTTP/1.1\r\nHost: x\r\n" + fields
        looked = 0

        class Counted(bytes):
            def find(self, *found: object) -> int:
                nonlocal looked
                start = found[1]
                assert isinstance(start, int)
                looked += len(self) - start
                return super().find(*found)  # type: ignore[arg-type]

        for end in range(1, len(data)):
            assert not grown(Counted(data[:end]), end - 1)
        assert looked < 5 * len(data)
        assert grown(data + b"\r\n", len(data))

    def test_a_bad_byte_is_found_wherever_the_pieces_are_cut(self) -> None:
        good = b"GET /p HTTP/1.1\r\nHost: x\r\nA: b"
        for bad in (b"\n", b"\rb", b"\0"):
            data = good + bad + b"c"
            for cut in range(1, len(data)):
                with pytest.raises(Malformed):
                    assert [grown(data[:cut], 0), grown(data, cut)] == [False]
        for cut in range(1, len(good)):
            assert not grown(good[:cut], 0)
            assert not grown(good, cut)

    def test_single_bytes_over_a_socket(self, start_worker: Worker, stable: UpstreamProcess) -> None:
        worker = start_worker(Placed(route(stable.url), 0))
        client = Connection(worker.port)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\n\r\n" + post("/p", b"one") + post("/p", b"two"):
            client.send(bytes((byte,)))
        assert [client.answer().body for _ in range(2)] == [b"one", b"two"]
        client.send(b"GET /p HTTP/1.1\r\nHost: x\r\nA: b")
        client.send(b"\nX: y")
        assert client.answer().status == 400
        client.close()

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"GET /p HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * (MAX_FIELDS - 1) + b"\r\n", 200),
            (b"GET /p HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * MAX_FIELDS + b"\r\n", 431),
            (b"GET /p HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (MAX_HEAD - 60) + b"\r\n\r\n", 200),
            (b"GET /p HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
            (b"GET /p" + b"x" * MAX_HEAD, 414),
            (b"G: t /p HTTP/1.1\r\n\r\n" + b"x" * 2 * MAX_HEAD, 400),
        ],
    )
    def test_sizes_have_the_status_that_says_what_is_too_large(
        self, start_worker: Worker, start_upstream: Callable[..., UpstreamProcess], data: bytes, status: int
    ) -> None:
        worker = start_worker(Placed(route(start_upstream("s").url), 0))
        assert exchange(worker.port, data).status == status

    def test_a_slow_head_gets_408_also_on_a_used_connection(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0), head_timeout=0.6, idle_timeout=60.0)
        client = Connection(worker.port)
        client.send(post("/p"))
        assert client.answer().status == 200
        client.socket.settimeout(0.05)
        with contextlib.suppress(OSError):
            for byte in b"GET /p HTTP/1.1\r\nHost: " + b"x" * 2000:  # a byte now and then buys no time
                client.send(bytes((byte,)))
                with contextlib.suppress(TimeoutError):
                    if client.more():
                        break
        client.socket.settimeout(15)
        assert client.answer().status == 408
        client.close()


class TestBodies:
    def test_a_slow_body_gets_408_and_is_the_clients_fault(
        self,
        start_worker: Worker,
        stable: UpstreamProcess,
        start_observer: Callable[[WorkerProcess], Observer],
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0), body_timeout=0.5)
        observer = start_observer(worker)
        for framing in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
            client = Connection(worker.port)
            client.send(b"POST /p HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n5\r\nab")
            assert client.answer().status == 408
            client.close()
        assert {fact.ending for fact in observer.wait_facts(2)} == {Ending.DISCONNECTED}

    def test_a_client_that_waits_for_100_is_not_slow(
        self,
        start_worker: Worker,
        start_upstream: Callable[..., UpstreamProcess],
        start_observer: Callable[[WorkerProcess], Observer],
    ) -> None:
        """The upstream has not asked for the body, so what passes is its time, and its failure."""
        listener = socket.create_server(("127.0.0.1", 0))
        worker = start_worker(
            Placed(route(f"http://127.0.0.1:{listener.getsockname()[1]}", deadline=1.5), 0), body_timeout=0.3
        )
        observer = start_observer(worker)
        client = Connection(worker.port)
        client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert client.answer().status == 504
        assert observer.wait_facts(1)[0].ending == Ending.TIMEOUT
        client.close()
        end, _ = listener.accept()
        end.close()
        second = Connection(worker.port)  # once it has asked, the client is waited for
        second.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        end, _ = listener.accept()
        assert b"100-continue" in end.recv(65536)
        end.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert second.answer().status == 100
        assert second.answer().status == 408
        assert observer.wait_facts(2)[1].ending == Ending.DISCONNECTED
        second.close()
        end.close()
        listener.close()

    def test_the_rest_of_a_body_nobody_wants_has_a_time_as_a_whole(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0), body_timeout=1.0)
        client = Connection(worker.port)
        client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nx-script: early\r\nContent-Length: 100000\r\n\r\n12345")
        assert client.answer().status == 403
        with contextlib.suppress(OSError):
            for _ in range(200):  # more often than the timeout, but for much longer
                client.send(b"x")
                time.sleep(0.05)  # the pace of the slow client itself
                client.socket.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    if not client.more():
                        break
                client.socket.setblocking(True)
            else:
                raise AssertionError("the rest may take for ever")
        client.close()

    @pytest.mark.parametrize("size", [1000, 1001])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_the_limit_holds_in_both_framings(
        self, start_worker: Worker, stable: UpstreamProcess, size: int, chunked: bool
    ) -> None:
        worker = start_worker(Placed(route(stable.url, max_body=1000), 0))
        if chunked:
            data = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            data += b"1\r\nx\r\n" * size + b"0\r\n\r\n"
        else:
            data = post("/p", b"x" * size)
        assert exchange(worker.port, data).status == (200 if size == 1000 else 413)


class TestKeepAlive:
    def test_idle_connections_end_quietly(self, start_worker: Worker, stable: UpstreamProcess) -> None:
        worker = start_worker(Placed(route(stable.url), 0), idle_timeout=0.4)
        client = Connection(worker.port)
        client.send(post("/p"))
        assert client.answer().status == 200
        assert client.ended()
        client.close()

    def test_pipelined_requests_behind_a_slow_one_are_bounded(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0))
        exchange(worker.port, post("/p"))
        before = worker.rss()
        clients = []
        for _ in range(20):
            client = Connection(worker.port)
            client.send(post("/p", b"{}", "x-script: slow=0.5"))
            client.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(200):
                    client.send(GET * 1000)
            client.socket.setblocking(True)
            clients.append(client)
        assert worker.rss() - before < 20 * MIB
        for client in clients:
            assert client.answer().status == 200
            assert client.answer().status == 200
            client.close()

    def test_a_client_that_reads_no_answers_is_not_asked_for_more_requests(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0))
        before = worker.rss()
        client = Connection(worker.port)
        client.socket.setblocking(False)
        sent = 0
        until = time.monotonic() + 1.5
        data = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        while time.monotonic() < until:
            try:
                sent += client.socket.send(data[sent % len(data) :])
            except BlockingIOError:
                time.sleep(0.01)
        assert worker.rss() - before < 16 * MIB
        assert exchange(worker.port, post("/p")).status == 200
        client.close()


class TestDraining:
    def test_what_is_open_is_finished_and_nothing_more_is_taken(
        self, start_worker: Worker, stable: UpstreamProcess
    ) -> None:
        worker = start_worker(Placed(route(stable.url), 0))
        idle, busy, half = (Connection(worker.port) for _ in range(3))
        for client in (idle, half):
            client.send(post("/p"))
            assert client.answer().status == 200
        busy.send(post("/p", b"{}", "x-script: slow=0.7") + post("/p", b"behind"))
        half.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Le")
        exchange(worker.port, post("/p"))
        worker.drain()
        assert idle.ended()
        answer = busy.answer()
        assert (answer.body, answer.field("connection")) == (b"ok", "close")
        assert busy.ended()
        half.send(b"ngth: 4\r\n\r\nlast")
        answer = half.answer()
        assert (answer.body, answer.field("connection")) == (b"last", "close")
        assert half.ended()
        for client in (idle, busy, half):
            client.close()
        assert worker.process.wait(10) == 0


def test_http_1_0_gets_no_interim_answer_and_no_chunks(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    for script, body in (("hints", b"ok"), ("chunked", b'{"predictions": [1, 2, 3]}')):
        client = Connection(worker.port)
        fields = f"Host: x\r\nContent-Length: 2\r\nx-script: {script}"
        client.send(f"POST /p HTTP/1.0\r\n{fields}\r\n\r\nhi".encode())
        answer = client.answer()
        assert (answer.status, answer.body) == (200, body)
        assert client.ended()
        client.close()


def test_trailers_pass_both_ways(start_worker: Worker) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    worker = start_worker(Placed(route(f"http://127.0.0.1:{listener.getsockname()[1]}"), 0))
    client = Connection(worker.port)
    client.send(
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    end, _ = listener.accept()
    seen = b""
    while not seen.endswith(b"0\r\nX-Sum: 7\r\n\r\n"):
        data = end.recv(65536)
        assert data, seen
        seen += data
    assert b"Trailer: X-Sum" in seen
    end.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Back: 8\r\n\r\n")
    assert client.answer().body.endswith(b"0\r\nX-Back: 8\r\n\r\n")
    client.close()
    end.close()
    listener.close()


def test_parsing_says_nothing_about_upgrades_that_are_none() -> None:
    head = parse_request(GET, Names())
    assert head is not None
    assert head.upgrade == b""
