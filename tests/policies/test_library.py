"""The policies that ship inside the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from accede.errors import FileError, NotFound
from accede.policies import library
from accede.policies.load import load_policy


def test_the_names() -> None:
    assert library.names() == ("fast", "guarded", "shadow-only")


def test_a_shadow_only_policy_has_no_step_that_users_see() -> None:
    assert {step.place for step in load_policy("shadow-only").steps} == {"shadow"}
    assert "holds in pause until an operator promotes" in " ".join(
        library.read("shadow-only").replace("#", "").split()
    )


def test_an_unknown_name() -> None:
    with pytest.raises(
        NotFound, match=r"no library policy '\.\./guarded'; there are: fast, guarded, shadow-only"
    ):
        library.read("../guarded")
    with pytest.raises(
        FileError, match="no such file or library policy; did you mean 'guarded'\\? the library has: fast,"
    ):
        load_policy("garded")
    with pytest.raises(FileError, match=r"x/garded.yaml:1:1: no such file$"):
        load_policy("x/garded.yaml")


def test_a_file_is_meant_where_a_path_is_given(tmp_path: Path) -> None:
    path = tmp_path / "guarded"
    path.write_text(library.read("fast"))
    assert load_policy(path).name == "fast"
    assert load_policy(str(path)).name == "fast"
