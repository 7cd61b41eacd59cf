"""Tokens and TLS of the API, by the installed command over real sockets."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from accede.cli.processes import free_ports
from accede.policies.tokens import parse_tokens

from .conftest import ACCEDE, ROOT, Run


class Guarded:
    """A controller over TLS that asks for tokens."""

    def __init__(self, folder: Path, port: int, accede: Run) -> None:
        self.folder = folder
        self.accede = accede
        self.address = f"https://localhost:{port}"
        self.file = folder / "tokens.yaml"
        self.tokens: dict[str, str] = {}
        self.ca = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        own = authority.issue_cert("localhost")
        own.private_key_pem.write_to_path(str(folder / "key.pem"))
        own.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        self.write("viewer", "operator", "approver")
        command: list[str | Path] = [
            ACCEDE, "controller", "--services", ROOT / "examples" / "demo", "--data", folder / "data",
            "--api-host", "0.0.0.0", "--api-port", str(port), "--tokens", self.file,
            "--api-tls-cert", folder / "cert.pem", "--api-tls-key", folder / "key.pem",
        ]  # fmt: skip
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stderr=log, env={**os.environ, "ACCEDE_PARENT": str(os.getpid())}
            )
        self.http = httpx.Client(
            base_url=self.address, verify=ssl.create_default_context(cafile=self.ca), trust_env=False
        )

    def write(self, *roles: str) -> None:
        """Tokens of new people, one of each role, and the file that lets nobody else in."""
        entries: list[dict[str, str]] = []
        for role in roles:
            made = json.loads(self.accede("token", f"the {role}", "--role", role, "-o", "json").stdout)
            self.tokens[role] = made["token"]
            entries.append(made["entry"])
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps({"format": "accede/v1", "kind": "ApiTokens", "tokens": entries}))
        fresh.rename(self.file)

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if what():
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("it did not happen in time")

    def run(self, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = {"ACCEDE_TOKEN": self.tokens[role]} if role else {}
        environment = {"ACCEDE_API": self.address, "ACCEDE_API_CA": str(self.ca), **given}
        return self.accede(*arguments, **environment)

    def status(self, authorization: str | None) -> int:
        headers = {} if authorization is None else {"authorization": authorization}
        return self.http.get("/api/v1/services", headers=headers).status_code


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, accede: Run) -> Iterator[Guarded]:
    one = Guarded(tmp_path_factory.mktemp("guarded"), free_ports(1)[0], accede)
    try:
        one.until(lambda: one.http.get("/readyz").status_code == 200)
        yield one
    finally:
        one.http.close()
        one.process.terminate()
        one.process.wait(15)


def started(guarded: Guarded) -> dict[str, Any]:
    result = guarded.run("operator", "start", "progression", "-c", "2", "--as", "somebody else", "-o", "json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_each_role_may_do_what_it_says_and_acts_in_its_own_name(guarded: Guarded) -> None:
    assert guarded.run("viewer", "list").returncode == 0
    refused = guarded.run("viewer", "start", "progression", "-c", "2")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the viewer has the role viewer; this needs operator" in refused.stderr
    started(guarded)
    past = guarded.run("operator", "promote", "progression", "--full", "--reason", "now")
    assert past.returncode == 1
    assert "needs the role approver" in past.stderr
    done = guarded.run("approver", "promote", "progression", "--full", "--reason", "now")
    assert done.returncode == 0, done.stderr
    trail = json.loads(guarded.run("viewer", "history", "progression", "-o", "json").stdout)["entries"]
    people = [(one["act"], one["actor"]) for one in trail if one["actor"] != "controller"]
    assert people[:2] == [("start", "the operator"), ("promote", "the approver")]
    log = (guarded.folder / "log").read_text()
    assert not [role for role, token in guarded.tokens.items() if token in log]


def test_without_a_token_or_with_another_nothing_is_told(guarded: Guarded) -> None:
    answer = guarded.http.get("/api/v1/services")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert set(answer.json()) == {"error"}
    token = guarded.tokens["viewer"]
    for wrong in ("", "Bearer", f"Basic {token}", f"Bearer {token}x", f"Bearer {token[:-1]}", token,
                  "Bearer " + "a" * 10_000, f"Bearer {token} {token}"):  # fmt: skip
        assert guarded.status(wrong) == 401, wrong
    assert guarded.status(f"Bearer {token}") == guarded.status(f"bearer {token}") == 200
    assert guarded.http.get("/healthz").status_code == 200, "probes have no token"
    assert guarded.http.get("/openapi.json").status_code == 200
    without = guarded.run("", "list")
    assert without.returncode == 1
    assert "ACCEDE_TOKEN" in without.stderr


def test_the_file_is_read_again_and_a_broken_one_replaces_nothing(guarded: Guarded) -> None:
    old = f"Bearer {guarded.tokens['viewer']}"
    guarded.file.with_suffix(".new").write_text("tokens: [")
    guarded.file.with_suffix(".new").rename(guarded.file)
    log = guarded.folder / "log"
    guarded.until(lambda: guarded.status(old) == 200 and "cannot be used" in log.read_text())
    guarded.write("viewer", "operator", "approver")
    guarded.until(lambda: guarded.status(old) == 401)
    assert guarded.status(f"Bearer {guarded.tokens['viewer']}") == 200


def test_a_certificate_that_cannot_be_verified_is_named(guarded: Guarded) -> None:
    result = guarded.accede("list", ACCEDE_API=guarded.address, ACCEDE_TOKEN=guarded.tokens["viewer"])
    assert result.returncode == 1
    assert "cannot be verified" in result.stderr
    assert "ACCEDE_API_CA" in result.stderr
    missing = guarded.accede("list", ACCEDE_API=guarded.address, ACCEDE_API_CA="/nowhere.pem")
    assert (missing.returncode, "'/nowhere.pem': No such file" in missing.stderr) == (2, True), missing.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--api-host", "0.0.0.0"), "loopback only"),
        (("--tokens", "missing.yaml"), "missing.yaml:1:1: no such file"),
        (("--api-tls-cert", "cert.pem"), "belong together"),
        (("--api-tls-cert", "cert.pem", "--api-tls-key", "key.pem"), "cert.pem"),
    ],
)
def test_what_cannot_be_served_does_not_start(
    accede: Run, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    result = accede("controller", "--data", tmp_path / "data", *flags)
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_token_may_be_of_groups(accede: Run, tmp_path: Path) -> None:
    made = accede(
        "token", "ben", "--role", "approver", "--group", "model-risk", "--group", "law", "--group", "law"
    )
    assert made.returncode == 0, made.stderr
    line = next(line for line in made.stdout.splitlines() if "sha256" in line)
    (found,) = parse_tokens(f"format: accede/v1\nkind: ApiTokens\ntokens:\n{line}\n", "t.yaml").tokens
    assert (found.name, found.role, found.groups) == ("ben", "approver", ("model-risk", "law"))
    for flags, said in (
        (("--role", "approver", "--group", "Model Risk"), "--group: found 'Model Risk'; allowed: lower-case"),
        (("--group", "model-risk"), "add --role approver (found viewer)"),
    ):
        wrong = accede("token", "ben", *flags)
        assert (wrong.returncode, wrong.stdout, said in wrong.stderr) == (2, "", True), wrong.stderr


def test_approving_needs_a_rollout_that_waits(guarded: Guarded) -> None:
    guarded.write("viewer", "operator", "approver")
    guarded.until(lambda: guarded.status(f"Bearer {guarded.tokens['approver']}") == 200)
    for role, said in (("operator", "has the role operator; this needs approver"), ("approver", "rollout")):
        refused = guarded.run(role, "approve", "progression", "--reason", "RISK-7")
        assert (refused.returncode, refused.stdout, said in refused.stderr) == (1, "", True), refused.stderr
