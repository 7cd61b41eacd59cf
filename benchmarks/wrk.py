"""Load from wrk: a closed loop over keep-alive connections, one thread, requests made before it starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import msgspec

from .parts import program
from .started import Failed

_USERS = 1000  # different units; the requests are prepared, so that wrk spends little on each

_SCRIPT = """
local ready, at, count = {}, 0, %(count)d
init = function(args)
  for n = 1, count do
    ready[n] = wrk.format("POST", string.gsub("%(path)s", "@", tostring((n - 1) %% %(services)d)),
      {["Host"] = "models", ["Content-Type"] = "application/json",
       ["X-User-Id"] = "user-" .. (n * 7919 %% 100000)},
      [==[%(body)s]==])
  end
end
request = function() at = at %% count + 1; return ready[at] end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nDONE {"requests":%%d,"us":%%d,"p50":%%d,"p99":%%d,"max":%%d,"errors":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
# wrk takes what its library offers first; so every proxy ends up with the same cipher and curve.
_OPENSSL = """openssl_conf = o
[o]
ssl_conf = s
[s]
system_default = d
[d]
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""


class Loaded(msgspec.Struct, frozen=True):
    """What wrk saw; times in µs."""

    requests: int
    us: int
    p50: float
    p99: float
    max: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.us * 1e6


class Wrk:
    """One kind of request. `path`: an @ in it becomes the number of one of `services`."""

    def __init__(
        self, folder: Path, cores: set[int], body: str, path: str = "/p/predict", services: int = 1
    ) -> None:
        self._script = folder / f"load-{services}.lua"
        count = max(_USERS, services)
        filled = {"count": count, "path": path, "services": services, "body": body}
        self._script.write_text(_SCRIPT % filled)
        self._openssl = folder / "openssl.cnf"
        self._openssl.write_text(_OPENSSL)
        self._cores = cores

    def load(
        self, port: int, seconds: float, connections: int, *, tls: bool = False, failures: bool = False
    ) -> Loaded:
        """Run it. Raises Failed if a request failed, unless `failures` are to be counted only."""
        whole = max(1, round(seconds))  # wrk knows whole seconds
        command = [
            "taskset", "-c", ",".join(map(str, sorted(self._cores))),
            program("wrk"), "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "20s",
            "-s", str(self._script), f"http{'s' if tls else ''}://127.0.0.1:{port}",
        ]  # fmt: skip
        ran = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=whole + 60,
            env={**os.environ, "OPENSSL_CONF": str(self._openssl)},
        )  # fmt: skip
        found = re.search(r"^DONE (\{.*\})$", ran.stdout, re.MULTILINE)
        if ran.returncode or found is None:
            raise Failed(f"wrk failed:\n{ran.stdout}{ran.stderr}")
        loaded = msgspec.convert(json.loads(found.group(1)), Loaded)
        if not loaded.requests or (loaded.errors and not failures):
            raise Failed(f"{loaded.errors} of {loaded.requests} requests failed:\n{ran.stdout}")
        return loaded
