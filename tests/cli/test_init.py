"""`init` writes files that load and fit each other, for every protocol, and never over somebody's own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from accede.cli.initial import Protocol
from accede.cli.sketches import SKETCHES, policy_text, service_text
from accede.policies.load import check_pair, load_directory, parse_policy, parse_service
from accede.policies.protocols import PROTOCOLS
from accede.policies.service import ModelService
from accede.router.proxy.targets import call_kind

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def written(protocol: str, *urls: str) -> ModelService:
    service = parse_service(service_text(protocol, "fraud", urls))
    assert check_pair(service, parse_policy(policy_text(protocol, "fraud"))) == ()
    return service


def test_every_protocol_has_its_sketch() -> None:
    assert list(SKETCHES) == list(PROTOCOLS) == list(Protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_written_loads_and_fits(protocol: str) -> None:
    service = written(protocol)
    assert (service.name, service.protocol, len(service.versions)) == ("fraud", protocol, 2)
    assert service.policy == "fraud-policy.yaml"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_comments_are_keys_that_load_as_well(protocol: str) -> None:
    text = service_text(protocol, "fraud", ())
    for commented in ("# path:", "# range:", "# selected:", "# slices:", "#   sex:"):
        if commented == "# path:" and "  # path:" in text:
            text = text.replace("  # path:", "  path:")
        text = text.replace(
            commented, commented.replace("# ", "", 1) if commented[2] != " " else commented[1:]
        )
    service = parse_service(text)
    assert list(service.slices) == ["sex"]
    assert service.prediction.path is not None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_call_that_it_names_is_one_that_is_analysed(protocol: str) -> None:
    match = written(protocol).match.path or ""
    call = SKETCHES[protocol].call.replace("NAME", "fraud").split()
    if protocol != "json":
        path = call[1].rstrip(",")
        assert path.startswith(match)
        assert call_kind(protocol, "POST", path).predicts


def test_addresses_are_those_given() -> None:
    one = written("mlflow", "http://a:5000", "http://b:5000")
    assert [version.url for version in one.versions.values()] == ["http://a:5000", "http://b:5000"]


@pytest.mark.parametrize(
    ("protocol", "shared"), [("tensorflow-serving", True), ("torchserve", True), ("mlflow", False)]
)
def test_one_server_holds_both_versions_where_the_url_names_them(protocol: str, shared: bool) -> None:
    first, second = (version.url for version in written(protocol, "http://a:1").versions.values())
    assert (first == second) is shared


def test_it_writes_a_directory_that_is_ready_to_serve(accede: Run, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    begun = accede(
        "init", "open-inference", "credit", "--dir", folder, "--url", "http://a:1", "--url", "http://b:2"
    )
    assert begun.returncode == 0, begun.stderr
    loaded = load_directory(folder)
    assert loaded.problems == ()
    assert loaded.pairs == {"credit": "credit-rollout"}
    assert f"accede start credit --candidate {list(loaded.services['credit'].versions)[-1]}" in begun.stdout
    assert accede("validate", folder).returncode == 0


def test_what_it_did_as_json(accede: Run, tmp_path: Path) -> None:
    begun = accede("init", "json", "--dir", tmp_path, "-o", "json")
    value = json.loads(begun.stdout)
    assert value["service"] == "model"
    assert [Path(file).exists() for file in value["files"]] == [True, True]
    assert value["next"][0] == f"accede validate {tmp_path}"


def test_a_file_that_is_there_stays_unless_forced(accede: Run, tmp_path: Path) -> None:
    (tmp_path / "credit-policy.yaml").write_text("mine")
    refused = accede("init", "json", "credit", "--dir", tmp_path)
    assert refused.returncode == 1
    assert f"{tmp_path / 'credit-policy.yaml'} exist" in refused.stderr
    assert "--force" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["credit-policy.yaml"]
    assert (tmp_path / "credit-policy.yaml").read_text() == "mine"
    assert accede("init", "json", "credit", "--dir", tmp_path, "--force").returncode == 0
    assert load_directory(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("grpc",), "'grpc' is not one of 'tensorflow-serving'"),
        (("json", "Fraud"), "found 'Fraud'; allowed: 1 to 63 lower-case letters"),
        (("json", "m", "--url", "tf-b:8501"), "not an http URL"),
        (("json", "m", "--url", 'http://a"b'), "versions.v1.url"),
        (("json", "m", *("--url", "http://a:1") * 3), "--url was given 3 times"),
    ],
)
def test_a_wrong_call_writes_nothing(
    accede: Run, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    refused = accede("init", *arguments, "--dir", tmp_path / "new")
    assert refused.returncode == 2, refused.stderr
    assert told in refused.stderr
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_told(accede: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = accede("init", "json", "--dir", tmp_path / "file" / "below")
    assert refused.returncode == 1
    assert "cannot be written to" in refused.stderr
