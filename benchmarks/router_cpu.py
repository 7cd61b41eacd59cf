"""CPU seconds per request of one router worker against one nginx worker, in interleaved rounds.

64 connections send 503-byte JSON POSTs with a user id. Both proxies keep connections alive to the same
two upstreams (nginx) and split by the user id; the worker also captures every exchange and hands it to a
socket that is read and thrown away. Exit 1 if the median ratio is above --max-ratio.

    python benchmarks/router_cpu.py [--rounds 3] [--seconds 5] [--connections 64] [--max-ratio 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from accede.router.counters import Counters
from accede.router.facts import Placed, Table, encode_message
from accede.router.proxy.worker import WorkerConfig
from accede.store.measurement import MeasurementPlan
from accede.store.routes import WIRE, Arm, ServiceRoute

TICKS = os.sysconf("SC_CLK_TCK")
BODY = '{"instances": [[' + ", ".join(["0.1234567"] * 44) + "]]"
BODY += " " * (502 - len(BODY)) + "}"

NGINX = """
worker_processes 1; daemon off; pid {here}/{name}.pid; error_log {here}/{name}.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {here}/{name}-body; proxy_temp_path {here}/{name}-proxy;
  fastcgi_temp_path {here}/{name}-f; uwsgi_temp_path {here}/{name}-u; scgi_temp_path {here}/{name}-s;
  {http}
}}
"""
ORIGIN = """
  default_type application/json;
  server {{ listen 127.0.0.1:{a} backlog=4096; location / {{ return 200 '{{"predictions": [0.5]}}'; }} }}
  server {{ listen 127.0.0.1:{b} backlog=4096; location / {{ return 200 '{{"predictions": [0.6]}}'; }} }}
"""
PROXY = """
  upstream a {{ server 127.0.0.1:{a}; keepalive 256; keepalive_requests 1000000000; }}
  upstream b {{ server 127.0.0.1:{b}; keepalive 256; keepalive_requests 1000000000; }}
  split_clients $http_x_user_id $arm {{ 10% b; * a; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://$arm; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_set_header Host $host; add_header x-accede-arm $arm; }} }}
"""
WRK = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("POST", "/p/predict", {{["Host"]="models", ["content-type"]="application/json",
    ["x-user-id"]="user-" .. (n * 7919 % 100000)}}, [==[{body}]==])
end
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def child_of(pid: int) -> int:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise SystemExit("nginx did not start its worker")


def start_nginx(here: Path, name: str, http: str) -> subprocess.Popen[bytes]:
    config = here / f"{name}.conf"
    config.write_text(NGINX.format(here=here, name=name, http=http))
    return subprocess.Popen(["nginx", "-c", str(config), "-p", str(here)], stderr=subprocess.DEVNULL)


def start_worker(here: Path, a: int, b: int) -> tuple[subprocess.Popen[bytes], int, socket.socket]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    control, theirs = socket.socketpair()
    Counters(here / "counters", 1, create=True).close()
    config = WorkerConfig(
        worker=0, workers=1, boot="bench", listen=(listener.fileno(),), control=theirs.fileno(),
        observer=str(here / "observer"), counters=str(here / "counters"),
    )  # fmt: skip
    command = [sys.executable, "-m", "accede.router.proxy.worker", msgspec.json.encode(config).decode()]
    process = subprocess.Popen(command, pass_fds=(listener.fileno(), theirs.fileno()))
    route = ServiceRoute(
        wire=WIRE, service="bench", generation=1, path="/p", host=None, protocol="json",
        arms=(
            Arm("stable", "1", (f"http://127.0.0.1:{a}",), 9000),
            Arm("candidate", "2", (f"http://127.0.0.1:{b}",), 1000),
        ),
        unit_header="x-user-id", salt="bench/1", side_effects="none",
        plan=MeasurementPlan("r", 1, "canary", None, 1.0, 10.0, sticky=True),
    )  # fmt: skip
    control.sendall(encode_message(Table(1, (Placed(route, 0),))))
    control.recv(4096)
    return process, int(listener.getsockname()[1]), control


DRAIN = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
while True:
    c, _ = s.accept()
    while c.recv(1 << 20): pass
"""


def load(port: int, script: Path, seconds: float, connections: int) -> int:
    """Requests answered; ends the run if any failed."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}",
    ]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"requests failed:\n{out}")
    return next(int(line.split()[0]) for line in out.splitlines() if "requests in" in line)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--max-ratio", type=float, default=3.0)
    options = parser.parse_args()
    missing = [program for program in ("nginx", "wrk") if shutil.which(program) is None]
    if missing:
        print(
            f"this benchmark needs {' and '.join(missing)} (Debian packages of these names)", file=sys.stderr
        )
        return 2
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        try:
            a, b, port = free_port(), free_port(), free_port()
            running.append(start_nginx(here, "origin", ORIGIN.format(a=a, b=b)))
            nginx = start_nginx(here, "proxy", PROXY.format(a=a, b=b, port=port))
            running.append(nginx)
            running.append(subprocess.Popen([sys.executable, "-c", DRAIN, str(here / "observer")]))
            worker, worker_port, control = start_worker(here, a, b)
            running.append(worker)
            script = here / "post.lua"
            script.write_text(WRK.format(body=BODY))
            sides = {"nginx": (child_of(nginx.pid), port), "accede": (worker.pid, worker_port)}
            found: dict[str, list[float]] = {name: [] for name in sides}
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _, target in sides.values():
                load(target, script, 1, options.connections)
            for index in range(options.rounds):
                for name, (pid, target) in sides.items():
                    before = cpu(pid)
                    requests = load(target, script, options.seconds, options.connections)
                    found[name].append((cpu(pid) - before) / requests * 1e6)
                    rates[name].append(requests / options.seconds)
                print(
                    f"round {index + 1}: "
                    + ", ".join(
                        f"{name} {found[name][-1]:.1f} µs CPU, {rates[name][-1]:.0f}/s" for name in sides
                    ),
                    flush=True,
                )
            control.close()
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                process.wait()
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(found["accede"], found["nginx"], strict=True)
    )
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"median CPU per request: nginx {medians['nginx']:.1f} µs, accede {medians['accede']:.1f} µs")
    print(f"ratio {ratio:.2f} (allowed {options.max_ratio:g})")
    return 0 if ratio <= options.max_ratio else 1


if __name__ == "__main__":
    raise SystemExit(main())
