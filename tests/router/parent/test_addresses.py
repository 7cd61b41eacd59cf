"""What a router says of the addresses it leaves out, over a whole router with its workers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from accede.router.facts import UNWELL, Health, Unwell
from accede.router.parent.addresses import addresses
from accede.store.rollouts import AddressState
from accede.store.routes import Arm, RouteBalance, RouteReadiness
from tests.router.parent.test_parent import RouterProcess, commit, poll, post, route, start

__all__ = ["start"]  # a fixture


def test_an_address_that_is_ejected_or_not_ready_is_told_until_it_is_back(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any,
    start_upstream: Callable[..., Any],
) -> None:  # fmt: skip
    # Bound and not listening: nothing answers there, and no other test gets the port meanwhile.
    kept = socket.socket()
    kept.bind(("127.0.0.1", 0))
    dead = int(kept.getsockname()[1])
    arms = (Arm("stable", "1", (stable.url, f"http://127.0.0.1:{dead}"), 10_000),)
    balance = RouteBalance(eject_after=1, eject_for=300.0)
    first = route(stable.url, stable.url, balance=balance, readiness=RouteReadiness(probe=False))
    commit(tmp_path, msgspec.structs.replace(first, arms=arms))
    router = start().ready()
    port = router.port
    assert poll(router.report).addresses == ()

    def ejected_everywhere() -> bool:
        assert post(port)[0] == 200, "the next address is asked"
        found = router.report()
        state = AddressState("s", "1", f"127.0.0.1:{dead}", unready=0, ejected=2)
        return found.addresses == (state,) and found.workers == 2

    poll(ejected_everywhere)
    assert router.status()["addresses"] == [
        {"service": "s", "version": "1", "address": f"127.0.0.1:{dead}", "unready": 0, "ejected": 2}
    ]
    asked = RouteReadiness(path="/ready", every=0.1, timeout=1.0, unready_after=1)
    commit(tmp_path, msgspec.structs.replace(first, arms=arms, generation=2, readiness=asked))
    poll(lambda: [one.unready for one in router.report().addresses] == [2])
    kept.close()
    start_upstream("second", port=dead)
    poll(lambda: all(not one.unready for one in router.report().addresses))
    assert [one for one in router.said if "unexpected" in one or "Traceback" in one] == []


def test_states_are_added_over_workers_and_bounded() -> None:
    many = tuple(Unwell("s", "2", f"h{n:03}:1", unready=True, ejected=False) for n in range(UNWELL))
    one = Unwell("s", "1", "a:1", unready=True, ejected=True)
    found = addresses([Health(0, (one,)), None, Health(2, (one, *many))])
    assert found[0] == AddressState("s", "1", "a:1", 2, 2)
    assert len(found) == UNWELL
