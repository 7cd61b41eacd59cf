"""A URL that fails several times in a row is left out for a while, unless too many are out already."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from accede.router.facts import Placed
from accede.router.proxy import ejection
from accede.router.proxy.ejection import Changes, Health
from accede.router.proxy.reach import Reached, Upstreams
from accede.store.routes import Arm, RouteBalance, UpstreamTls
from tests.router.conftest import UpstreamProcess, WorkerProcess, exchange, post, route, wait_for
from tests.router.proxy.test_balancing import spread

Worker = Callable[..., WorkerProcess]
Upstream = Callable[..., UpstreamProcess]


def statuses(port: int, count: int) -> list[int]:
    return [exchange(port, post("/p")).status for _ in range(count)]


def turns(*urls: str, **balance: object) -> Placed:
    """One URL after the other; nothing is repeated, so that every failure is seen."""
    return Placed(
        msgspec.structs.replace(spread(*urls, by="round-robin", **balance), side_effects="writes"), 0
    )


@pytest.mark.parametrize("script", ["status=503", "truncate", "close-silently", "garbage"])
def test_failures_in_a_row_take_a_url_out_of_the_rotation(
    start_worker: Worker, start_upstream: Upstream, script: str
) -> None:
    good, bad = start_upstream("good"), start_upstream("bad", script)
    worker = start_worker(turns(good.url, bad.url, eject_after=3, eject_for=60.0))
    statuses_or_cut = []
    for _ in range(6):
        try:
            statuses_or_cut.append(exchange(worker.port, post("/p")).status)
        except EOFError:  # the answer had begun
            statuses_or_cut.append(0)
    assert statuses_or_cut.count(200) == 3
    asked = len(bad.seen())
    assert statuses(worker.port, 20) == [200] * 20
    assert len(bad.seen()) == asked == 3


def test_answers_that_do_not_come_in_time_are_failures(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    good, bad = start_upstream("good"), start_upstream("bad", "hang")
    placed = turns(good.url, bad.url, eject_after=2, eject_for=60.0)
    placed = Placed(msgspec.structs.replace(placed.route, deadline=0.3), 0)
    worker = start_worker(placed)
    assert sorted(statuses(worker.port, 4)) == [200, 200, 504, 504]
    assert statuses(worker.port, 10) == [200] * 10


def test_an_ejection_and_its_end_are_one_line_each_of_the_log(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    good, bad = start_upstream("good"), start_upstream("bad", "status=503")
    worker = start_worker(turns(good.url, bad.url, eject_after=2, eject_for=0.3))
    statuses(worker.port, 4)
    wait_for(lambda: statuses(worker.port, 2).count(200) == 1)  # it is back, and fails once more
    said = [json.loads(line)["message"] for line in worker.stop().splitlines()]
    at = f"worker 0: version 42 of fraud: 127.0.0.1:{bad.port}"
    assert said == [
        f"{at} is ejected for 0.3 s after 2 failures in a row",
        f"{at} gets requests again, its ejection is over",
    ]


def test_what_clients_do_is_no_failure(start_worker: Worker, start_upstream: Upstream) -> None:
    good, bad = start_upstream("good"), start_upstream("bad", "status=404")
    worker = start_worker(turns(good.url, bad.url, eject_after=1, eject_for=60.0))
    assert sorted(statuses(worker.port, 10)) == [200] * 5 + [404] * 5


def test_a_url_comes_back_after_its_time(start_worker: Worker, start_upstream: Upstream) -> None:
    good, bad = start_upstream("good"), start_upstream("bad", "close-silently")
    port = bad.port
    worker = start_worker(turns(good.url, bad.url, eject_after=1, eject_for=0.3))
    assert sorted(statuses(worker.port, 2)) == [200, 502]
    bad.kill()
    start_upstream("well", port=port)

    def back() -> bool:
        answer = exchange(worker.port, post("/p"))
        assert answer.status == 200
        return answer.field("x-served-by") == "well"

    wait_for(back)


def test_at_most_the_given_share_is_out(start_worker: Worker, start_upstream: Upstream) -> None:
    bad = [start_upstream(name, "status=500") for name in "abcd"]
    worker = start_worker(turns(*(each.url for each in bad), eject_after=1, eject_for=60.0, max_ejected=0.5))
    assert statuses(worker.port, 30) == [500] * 30
    asked = sorted(len(each.seen()) for each in bad)
    assert asked[:2] == [1, 1]  # two of four are out
    assert asked[2] > 5  # and two go on, since they are all that is left


def test_a_url_that_is_alone_is_never_out(start_worker: Worker, start_upstream: Upstream) -> None:
    bad = start_upstream("bad", "status=500")
    balance = RouteBalance(eject_after=1, eject_for=60.0, max_ejected=1.0)
    worker = start_worker(Placed(route(bad.url, balance=balance), 0))
    assert statuses(worker.port, 10) == [500] * 10
    assert len(bad.seen()) == 10


def test_even_all_may_be_out_and_then_all_are_asked(start_worker: Worker, start_upstream: Upstream) -> None:
    bad = [start_upstream(name, "status=500") for name in "ab"]
    worker = start_worker(turns(*(each.url for each in bad), eject_after=1, eject_for=60.0, max_ejected=1.0))
    assert statuses(worker.port, 10) == [500] * 10
    assert min(len(each.seen()) for each in bad) >= 4


def test_a_new_table_does_not_forget_who_is_out(start_worker: Worker, start_upstream: Upstream) -> None:
    good, bad = start_upstream("good"), start_upstream("bad", "status=500")
    placed = turns(good.url, bad.url, eject_after=1, eject_for=60.0)
    worker = start_worker(placed)
    assert sorted(statuses(worker.port, 2)) == [200, 500]
    worker.apply(Placed(msgspec.structs.replace(placed.route, generation=2, deadline=7.0), 0))
    assert statuses(worker.port, 6) == [200] * 6


def test_a_version_is_not_left_without_a_url_because_another_one_fails_there(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    urls = [start_upstream(name).url for name in "ab"]  # one model server with both versions, as usual
    arms = (Arm("stable", "42", tuple(urls), 5000), Arm("candidate", "43", tuple(urls), 5000))
    told = route(
        urls[0], arms=arms, balance=RouteBalance(by="round-robin", eject_after=1, eject_for=60.0),
        side_effects="writes", unit_header="x-user",
    )  # fmt: skip
    worker = start_worker(Placed(told, 0))

    def arm_of(user: int, *fields: str) -> tuple[str | None, str | None]:
        answer = exchange(worker.port, post("/p", b"{}", f"x-user: {user}", *fields))
        return answer.field("x-accede-arm"), answer.field("x-served-by")

    candidates = [user for user in range(20) if arm_of(user)[0] == "candidate"]
    for _ in range(4):
        arm_of(candidates[0], "x-script: status=500")
    served = {arm_of(user) for user in range(40)}
    assert {by for arm, by in served if arm == "stable"} == {"a", "b"}
    assert len({by for arm, by in served if arm == "candidate"}) == 1


# --- the count itself


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(ejection, "monotonic", lambda: self.now)


def test_ejections_grow_and_a_success_ends_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    changes = Changes()
    health = Health(RouteBalance(eject_after=2, eject_for=10.0), changes)
    health.record(failed=True)
    health.record(failed=False)
    health.record(failed=True)
    assert (health.ejected, changes.count) == (False, 0)
    lengths = []
    for _ in range(3):
        health.record(failed=True)
        health.record(failed=True)
        assert health.ejected
        health.record(failed=False)  # one that was on its way already: it stays out
        assert health.ejected
        lengths.append(health.until - clock.now)
        health.sweep(health.until - 0.001)
        assert health.ejected
        clock.now = health.until
        health.sweep(clock.now)
        assert not health.ejected
    assert lengths == [10.0, 20.0, 30.0]
    assert changes.count == 6
    health.record(failed=False)
    health.record(failed=True)
    health.record(failed=True)
    assert health.until - clock.now == 10.0


def test_no_ejection_is_longer_than_five_minutes_unless_the_file_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    for first, longest in ((100.0, 300.0), (900.0, 900.0)):
        health = Health(RouteBalance(eject_after=1, eject_for=first), Changes())
        for _ in range(9):
            health.record(failed=True)
            clock.now = health.until
            health.sweep(clock.now)
        health.record(failed=True)
        assert health.until - clock.now == longest


def test_the_view_shows_who_is_out() -> None:
    upstreams = Upstreams(1.0)
    kept = Reached(
        upstreams, spread("http://x:1", eject_after=2), "42", ("http://a:1", "http://b:1"), UpstreamTls(),
        at_most=0, trusting=True,
    )  # fmt: skip
    health = kept.pools[1].health
    assert health is not None
    for _ in range(2):
        health.record(failed=True)
    shown = {view.address: (view.ejected, view.failures) for view in upstreams.view()}
    assert shown == {"a:1": (False, 0), "b:1": (True, 2)}
