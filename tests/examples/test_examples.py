"""Every example is what it says: files that load, fit each other, and are what the demo plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from accede.cli.demo.cast import material
from accede.policies.load import load_directory
from accede.policies.protocols import PROTOCOLS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# examples/ci rolls nothing out, and holds files of others: test_ci.py.
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "ci")


def test_there_is_one_for_the_demo_for_labels_for_approvals_and_for_each_protocol() -> None:
    assert {path.name for path in FOLDERS} == {"demo", "labels", "approvals", *PROTOCOLS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_it_loads_and_its_policy_fits_its_service(folder: Path) -> None:
    loaded = load_directory(folder)
    assert loaded.problems == ()
    (service,) = loaded.services.values()
    (policy,) = loaded.policies
    assert loaded.pairs == {service.name: policy}
    assert service.protocol == (folder.name if folder.name in PROTOCOLS else "kserve-v1")
    assert len(service.versions) > 1


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_its_page_says_how_to_use_it(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    (service,) = load_directory(folder).services
    assert f"accede start {service} " in text
    assert f"--services examples/{folder.name}" in text


@pytest.mark.parametrize("name", ["service.yaml", "policy.yaml"])
def test_the_demo_plays_the_example(name: str) -> None:
    assert material(name) == (EXAMPLES / "demo" / name).read_text()
