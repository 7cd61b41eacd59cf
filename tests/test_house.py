"""The house stands as drawn: links, one-way imports, light planes, and a wheel that carries everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "controller", "policies", "router", "store")


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(("git", *arguments), cwd=folder, check=True, capture_output=True)


def source_files() -> list[str]:
    """Files that git tracks or would track, relative to the root."""
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    names = (os.fsdecode(name) for name in listed.stdout.split(b"\0") if name)
    return sorted({name for name in names if os.path.lexists(ROOT / name)})


def copy_of_the_tree(target: Path) -> Path:
    for name in source_files():
        copied = target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copied, follow_symlinks=False)
    return target


def gate(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run((sys.executable, ROOT / "scripts" / "gates.py", name), folder)


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A work tree of its own in which every gate is content."""
    git(tmp_path, "init", "-q")
    (tmp_path / "accede").mkdir()
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / "accede" / package).symlink_to(f"../{package}")
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "greet"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    git(tmp_path, "add", ".")
    return tmp_path


class TestTree:
    def test_this_tree_passes(self) -> None:
        found = gate("tree", ROOT)
        assert (found.stdout, found.returncode) == ("", 0)

    def test_a_small_tree_passes(self, small_tree: Path) -> None:
        found = gate("tree", small_tree)
        assert (found.stdout, found.returncode) == ("", 0)

    def test_an_absolute_link_is_refused(self, small_tree: Path) -> None:
        link = small_tree / "accede" / "router"
        link.unlink()
        link.symlink_to(small_tree / "router")
        found = gate("tree", small_tree)
        assert found.returncode == 1
        assert "accede/router: points to /" in found.stdout

    def test_a_folder_in_place_of_a_link_is_refused(self, small_tree: Path) -> None:
        # What a checkout without links, or a careless copy, leaves behind.
        link = small_tree / "accede" / "store"
        link.unlink()
        shutil.copytree(small_tree / "store", link)
        git(small_tree, "add", "-A")
        found = gate("tree", small_tree)
        assert found.returncode == 1
        assert "accede/store: must be a link to ../store" in found.stdout
        assert "accede/store: git keeps nothing" in found.stdout

    def test_a_link_that_git_does_not_keep_is_refused(self, small_tree: Path) -> None:
        git(small_tree, "rm", "-q", "--cached", "accede/cli")
        found = gate("tree", small_tree)
        assert found.returncode == 1
        assert "accede/cli: git keeps nothing" in found.stdout

    def test_windows_line_ends_are_refused(self, small_tree: Path) -> None:
        (small_tree / "policies" / "guarded.yaml").write_bytes(b"format: accede/v1\r\n")
        found = gate("tree", small_tree)
        assert found.returncode == 1
        assert "policies/guarded.yaml: has CRLF line ends" in found.stdout

    def test_a_script_that_cannot_start_is_refused(self, small_tree: Path) -> None:
        script = small_tree / "scripts" / "greet"
        script.write_text("#!/bin/sh\nif true; then\n")
        script.chmod(0o644)
        found = gate("tree", small_tree)
        assert found.returncode == 1
        assert "scripts/greet: has a first line #! and is not executable" in found.stdout
        assert "scripts/greet: sh cannot parse it" in found.stdout


class TestTypes:
    def test_a_folder_that_pyright_was_not_told_of_is_noticed(self, small_tree: Path) -> None:
        (small_tree / "pyrightconfig.json").write_text('{"include": ["accede/cli", "accede/router"]}')
        found = gate("types", small_tree)
        assert found.returncode == 1
        assert "pyright checked 2 files of 5" in found.stdout

    def test_a_type_error_behind_a_link_is_found(self, small_tree: Path) -> None:
        folders = ", ".join(f'"accede/{package}"' for package in PACKAGES)
        (small_tree / "pyrightconfig.json").write_text(f'{{"include": [{folders}]}}')
        (small_tree / "router" / "table.py").write_text('weight: int = "ten"\n')
        found = gate("types", small_tree)
        assert found.returncode == 1
        assert "accede/router/table.py:1:15: " in found.stdout
        assert "pyright checked" not in found.stdout


class TestImports:
    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("router/__init__.py", "from .. import controller"),
            ("controller/__init__.py", "from .. import router"),
            ("store/__init__.py", "from .. import router"),
            ("policies/__init__.py", "from .. import store"),
            ("controller/stats/__init__.py", "from ... import errors"),
            ("router/__init__.py", "import numpy"),
        ],
    )
    def test_an_import_against_the_drawn_direction_is_refused(
        self, tmp_path: Path, file: str, line: str
    ) -> None:
        tree = copy_of_the_tree(tmp_path)
        with (tree / file).open("a") as source:
            source.write(f"\n{line}\n")
        found = run((Path(sys.executable).with_name("lint-imports"), "--no-cache"), tree)
        assert found.returncode == 1, found.stdout + found.stderr
        assert "BROKEN" in found.stdout

    @pytest.mark.parametrize(
        "package",
        ["accede.router", "accede.store", "accede.policies"],
    )
    def test_no_module_of_a_light_package_loads_a_numeric_library(self, package: str) -> None:
        program = f"""
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
names = [found.name for found in pkgutil.walk_packages(package.__path__, {package!r} + ".")]
assert names, "no modules found"
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(sorted({{"numpy", "scipy", "sklearn"}} & set(sys.modules)))
"""
        found = run((sys.executable, "-c", program), ROOT)
        assert (found.stdout.strip(), found.returncode) == ("[]", 0), found.stderr

    def test_the_command_starts_without_a_numeric_library(self) -> None:
        program = """
import sys
import accede.cli.main
print(sorted({"numpy", "scipy", "sklearn"} & set(sys.modules)))
"""
        found = run((sys.executable, "-c", program), ROOT)
        assert (found.stdout.strip(), found.returncode) == ("[]", 0), found.stderr


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """What lies in the wheel built from the sdist of the tree: the way through an index."""
    folder = tmp_path_factory.mktemp("build")
    tree = copy_of_the_tree(folder / "tree")
    build = "import setuptools.build_meta as b, sys; getattr(b, 'build_' + sys.argv[1])(sys.argv[2])"
    packed = run((sys.executable, "-c", build, "sdist", folder), tree)
    assert packed.returncode == 0, packed.stderr
    (archive,) = folder.glob("accede-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    built = run((sys.executable, "-c", build, "wheel", folder), unpacked)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("accede-*.whl")
    with zipfile.ZipFile(wheel) as opened_wheel:
        return frozenset(opened_wheel.namelist())


class TestWheel:
    def test_it_carries_every_module_under_one_name(self, names: frozenset[str]) -> None:
        wanted = {
            f"accede/{name}"
            for name in source_files()
            if name.endswith(".py") and name.split("/", 1)[0] in PACKAGES
        }
        assert wanted
        assert wanted <= names
        assert {"accede/__init__.py", "accede/__main__.py", "accede/errors.py"} <= names

    def test_nothing_else_is_installed_at_the_top_level(self, names: frozenset[str]) -> None:
        tops = {name.split("/", 1)[0] for name in names}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"accede"}

    def test_it_carries_the_library_policies_the_type_marker_and_the_licence(
        self, names: frozenset[str]
    ) -> None:
        library = {path.name for path in (ROOT / "policies" / "library").glob("*.yaml")}
        assert library
        assert {f"accede/policies/library/{name}" for name in library} <= names
        assert "accede/py.typed" in names
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


class TestPins:
    def test_every_pin_is_a_plain_version(self) -> None:
        # An address or a hash in a pin would tie the project to one index or one kind of machine.
        for path in sorted((ROOT / "scripts").glob("requirements-*.txt")):
            for line in path.read_text().splitlines():
                if line and not line.startswith("#"):
                    assert line.startswith("-r requirements-") or "==" in line, f"{path.name}: {line}"
                    assert not {"@", "--hash", "//"} & set(line.split()), f"{path.name}: {line}"

    def test_the_pins_satisfy_the_ranges_of_the_project(self) -> None:
        checked = run((sys.executable, "-m", "pip", "check"), ROOT)
        assert checked.returncode == 0, checked.stdout
