"""Which service a request belongs to, among many."""

from __future__ import annotations

import asyncio

import pytest

from accede.router.facts import Placed, Table
from accede.router.proxy.heads import Malformed
from accede.router.proxy.reach import Upstreams
from accede.router.proxy.table import Call, RouteTable
from accede.store.routes import ServiceRoute
from tests.router.conftest import route


def _table(*routes: ServiceRoute, before: RouteTable | None = None) -> RouteTable:
    async def made() -> RouteTable:
        return RouteTable(Table(1, tuple(Placed(each, -1) for each in routes)), Upstreams(1.0), before)

    return asyncio.run(made())


def _call(table: RouteTable, target: str, host: str = "any") -> Call:
    return table.resolve(b"POST " + target.encode(), host.encode())


def _name(table: RouteTable, target: str, host: str = "any") -> str | None:
    try:
        return _call(table, target, host).service.name
    except Malformed as refused:
        return None if refused.status == 404 else refused.reason


URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("models.example", "bare"),
        ("MODELS.Example", "bare"),
        ("models.example:80", "bare"),
        ("models.example:8443", "port"),
        ("models.example:", "bare"),
        ("[2001:DB8::1]", "six"),
        ("[2001:db8::1]:8080", "six"),
        ("[2001:db8::2]", None),
        ("models.example.evil", None),
        ("", None),
    ],
)
def test_hosts_match_without_case_with_and_without_a_port(host: str, found: str | None) -> None:
    table = _table(
        route(URL, service="bare", path=None, host="models.example"),
        route(URL, service="port", path=None, host="Models.Example:8443"),
        route(URL, service="six", path=None, host="[2001:db8::1]"),
    )
    assert _name(table, "/x", host) == found


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/m", "m"),
        ("/m/", "m"),
        ("/m?x=/m/deep", "m"),
        ("/m/deep/er", "deep"),
        ("/M", None),  # paths have case: RFC 9110 §4.2.3
        ("/m%2Fdeep", None),  # an encoded slash divides nothing
        ("/m;v=1", None),
        ("//m", None),
        ("/", None),
        ("/v1/models/M:predict", "tf"),
        ("/v1/models/M/versions/4:predict", "tf"),
        ("/v1/models/Mx:predict", None),
        ("/n:x", None),
    ],
)
def test_paths_match_in_whole_segments_as_they_are_written(target: str, found: str | None) -> None:
    table = _table(
        route(URL, service="m", path="/m"),
        route(URL, service="deep", path="/m/deep/"),
        route(URL, service="n", path="/n"),
        route(URL, service="tf", path="/v1/models/M", protocol="tensorflow-serving"),
    )
    assert _name(table, target) == found


def test_a_named_host_goes_before_a_longer_path_elsewhere_and_leaves_the_rest() -> None:
    table = _table(
        route(URL, service="any", path="/m/deep"),
        route(URL, service="host", path="/m", host="h"),
        route(URL, service="port", path="/m/deep/est", host="h:1"),
    )
    assert _name(table, "/m/deep", "h") == "host"
    assert _name(table, "/m/deep", "h:1") == "host"
    assert _name(table, "/m/deep/est", "h:1") == "port"
    assert _name(table, "/m/deep", "other") == "any"
    assert _name(table, "/other", "h") is None


def test_every_target_form_is_answered() -> None:
    table = _table(route(URL, path="/"))
    assert _name(table, "http://any/p", "any") == "fraud"
    assert table.resolve(b"POST /p", b"").service.name == "fraud"
    with pytest.raises(Malformed, match="neither a path") as star:
        table.resolve(b"OPTIONS *", b"any")
    assert star.value.status == 400


def test_a_thousand_services_are_told_apart_and_few_are_named_to_strangers() -> None:
    many = [route(URL, service=f"s{number}", path=f"/v1/models/m{number}") for number in range(1000)]
    table = _table(*many)
    for number in (0, 7, 70, 700, 999):
        assert _name(table, f"/v1/models/m{number}/x") == f"s{number}"
    with pytest.raises(Malformed, match="and 980 more"):
        _call(table, "/nowhere")


def test_an_unchanged_service_is_not_compiled_again() -> None:
    one, two = route(URL, service="one", path="/1"), route(URL, service="two", path="/2")
    before = _table(one, two)
    after = _table(one, route(URL, service="two", path="/2", generation=2), before=before)
    assert after.services["one"] is before.services["one"]
    assert after.services["two"] is not before.services["two"]
    assert after.services["two"].budget is before.services["two"].budget


def test_strangers_lines_displace_no_busy_one() -> None:
    table = _table(route(URL, path="/"))
    busy = _call(table, "/busy")
    for number in range(10_000):
        _call(table, f"/{number}")
        if number % 1000 == 0:
            assert _call(table, "/busy") is busy
