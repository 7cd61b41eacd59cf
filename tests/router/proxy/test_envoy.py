"""Without a salt the split is Envoy's: the same keys go to the same side, proven against Envoy itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from accede.router.facts import Placed
from accede.router.proxy.assignment import share_of
from accede.store.routes import RouteReadiness
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, post, route, wait_for

ROOT = Path(__file__).resolve().parents[3]
CANDIDATE = 1_700  # basis points; a weight with no round share of the hashes
ODD = ("a", "0", "é", "x" * 500, "a b", "%20", "ÿ", "=", ";", "-")
KEYS = (*(f"user-{number}" for number in range(9_990)), *ODD)

# What Envoy 1.40 did with these keys at the weight above, so that every run of the tests knows.
STABLE_OF_ENVOY = ("user-0", "user-1", "user-2", "user-4", "user-5", "user-6", "user-7", "user-8", "a")
CANDIDATE_OF_ENVOY = ("user-3", "user-9", "user-10", "é")


def program() -> str:
    """Envoy from the environment of the benchmarks, or from the path."""
    found = sorted((ROOT / "benchmarks" / ".venv").glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    chosen = str(found[0]) if found else shutil.which("envoy")
    if chosen is None:
        pytest.skip("Envoy is not installed; scripts/bench installs it (scripts/requirements-bench.txt)")
    return chosen


def configuration(port: int, stable: str, candidate: str) -> dict[str, Any]:
    """Two weighted clusters, chosen by the hash of a header."""
    types = "type.googleapis.com/envoy.extensions.filters"
    action = {
        "weighted_clusters": {
            "clusters": [
                {"name": "stable", "weight": 10_000 - CANDIDATE},
                {"name": "candidate", "weight": CANDIDATE},
            ],
            "use_hash_policy": True,
        },
        "hash_policy": [{"header": {"header_name": "x-user-id"}}],
    }
    connections = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "split",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
            ]
        },
    }
    chain = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    }
    return {
        "static_resources": {
            "listeners": [{"name": "in", "address": _address(port), "filter_chains": [chain]}],
            "clusters": [_cluster("stable", stable), _cluster("candidate", candidate)],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, url: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(urlsplit(url).port or 80)}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


@pytest.fixture
def envoy(
    tmp_path: Path, free_port: Callable[[], int], stable: UpstreamProcess, candidate: UpstreamProcess
) -> Iterator[int]:
    """A running Envoy before both upstreams; its port."""
    port = free_port()
    config = tmp_path / "envoy.json"
    config.write_bytes(msgspec.json.encode(configuration(port, stable.url, candidate.url)))
    with (tmp_path / "envoy.log").open("wb") as log:
        command = [
            program(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "error",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or _listens(port), 60)
            assert process.poll() is None, (tmp_path / "envoy.log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(15)


def _listens(port: int) -> bool:
    with suppress(OSError):
        Connection(port).close()
        return True
    return False


def served_by(port: int) -> dict[str, str | None]:
    """Key -> the upstream that answered."""
    client = Connection(port)
    found = {}
    for key in KEYS:
        request = post("/p", b"{}", "X-User-Id: KEY").replace(b"KEY", key.encode())
        client.send(request)
        found[key] = client.answer().field("x-served-by")
    client.close()
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_envoy_assigns_the_same_arms(
    envoy: int,
    start_worker: Callable[..., WorkerProcess],
    stable: UpstreamProcess,
    candidate: UpstreamProcess,
) -> None:
    split = route(
        stable.url, candidate.url, CANDIDATE, unit_header="x-user-id", readiness=RouteReadiness(probe=False)
    )
    worker = start_worker(Placed(split, 0))
    theirs, ours = served_by(envoy), served_by(worker.port)
    assert len(ours) == 10_000
    assert ours == theirs
    assert 1_500 < list(ours.values()).count("candidate") < 1_900
    told = {key: theirs[key] for key in (*STABLE_OF_ENVOY, *CANDIDATE_OF_ENVOY)}
    assert told == dict.fromkeys(STABLE_OF_ENVOY, "stable") | dict.fromkeys(CANDIDATE_OF_ENVOY, "candidate")


def test_what_envoy_did_with_some_keys() -> None:
    assert all(share_of(key.encode()) < 10_000 - CANDIDATE for key in STABLE_OF_ENVOY)
    assert all(share_of(key.encode()) >= 10_000 - CANDIDATE for key in CANDIDATE_OF_ENVOY)
