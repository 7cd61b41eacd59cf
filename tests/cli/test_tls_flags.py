"""Flags of TLS: said the same way by `router` and `serve`, refused in one line where they cannot work."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from accede.cli.options import tls_files
from accede.errors import UsageError
from accede.router.proxy.tls import TlsFiles


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "missing"),
    [
        (Path("c"), None, None, "--tls-key"),
        (None, Path("k"), None, "--tls-cert"),
        (None, None, Path("a"), "--tls-cert"),
    ],
)
def test_half_of_a_pair_is_refused_with_the_other_named(
    cert: Path | None, key: Path | None, client_ca: Path | None, missing: str
) -> None:
    with pytest.raises(UsageError) as refused:
        tls_files(cert, key, client_ca)
    assert missing in str(refused.value)


def test_paths_become_absolute_for_the_processes_that_read_them() -> None:
    here = Path.cwd()
    assert tls_files(None, None, None) is None
    assert tls_files(Path("c"), Path("k"), None) == TlsFiles(str(here / "c"), str(here / "k"))
    assert tls_files(Path("c"), Path("k"), Path("/a")) == TlsFiles(str(here / "c"), str(here / "k"), "/a")


@pytest.mark.parametrize("verb", ["router", "serve"])
def test_files_that_cannot_be_used_end_in_one_line(verb: str, tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.mkdir()
    (services / "s.yaml").write_text(SERVICE)
    more = ["--services", str(services)] if verb == "serve" else []
    done = subprocess.run(
        [sys.executable, "-m", "accede", verb, *more, "--data", str(tmp_path / "data"),
         "--tls-cert", str(tmp_path / "nowhere.pem"), "--tls-key", str(tmp_path / "nowhere.key")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "nowhere.pem" in done.stderr
    assert "--tls-cert" in done.stderr
    assert "Traceback" not in done.stderr


SERVICE = """format: accede/v1
kind: ModelService
name: s
protocol: json
match: {path: /s}
unit: request
side_effects: none
versions: {"1": {url: "http://127.0.0.1:9"}}
stable: "1"
prediction: {path: p, type: number}
"""


def test_serve_speaks_tls_and_says_so(tmp_path: Path, free_port: Callable[[], int]) -> None:
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.cert_chain_pems[0].write_to_path(str(files[0]))
    cert.private_key_pem.write_to_path(str(files[1]))
    services = tmp_path / "services"
    services.mkdir()
    (services / "s.yaml").write_text(SERVICE)
    port, api = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "accede", "serve", "--services", str(services),
         "--data", str(tmp_path / "data"), "--port", str(port), "--api-port", str(api), "--drain", "1"],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "ACCEDE_TLS_CERT": str(files[0]), "ACCEDE_TLS_KEY": str(files[1])},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert any(f"proxy at https://127.0.0.1:{port}" in line for line in lines), lines
        context = ssl.create_default_context()
        ca.configure_trust(context)
        with pytest.raises(urllib.error.HTTPError) as answered:
            urllib.request.urlopen(f"https://127.0.0.1:{port}/s", data=b"{}", context=context, timeout=15)
        assert answered.value.code == 502  # nobody is at its version's address
        answered.value.close()
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
