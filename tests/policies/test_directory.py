"""A directory as a repository holds it: one bad file affects itself alone, and pairs are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from accede.errors import FileError
from accede.policies.load import load_directory

POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: NAME
steps: [{shadow: 10%}, {canary: 10%}]
gates:
  - {metric: errors}
  - {metric: selection_rate, by: sex}
"""


def service(name: str, *more: str) -> str:
    lines = [
        "format: accede/v1",
        "kind: ModelService",
        f"name: {name}",
        f"match: {{path: /{name}}}",
        "protocol: kserve-v1",
    ]
    lines += ['versions: {"1": {url: "http://a:1"}}', 'stable: "1"', *more]
    return "\n".join(lines) + "\n"


FITTING = (
    "side_effects: none",
    'prediction: {selected: ">= 0.5"}',
    "slices: {sex: {path: 'instances[*].sex', values: [f, m]}}",
)


def test_one_bad_file_affects_only_itself(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "careful.yaml").write_text(POLICY.replace("NAME", "careful"))
    (tmp_path / "a.yaml").write_text(service("a", "policy: policies/careful.yaml", *FITTING))
    (tmp_path / "b.yml").write_text("kind: [")
    (tmp_path / "c.yaml").write_text(service("c").replace("/c", "c"))
    (tmp_path / "d.yaml").write_text(service("d", "policy: fast"))
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.yaml").write_text("kind: [")
    loaded = load_directory(tmp_path)
    assert set(loaded.services) == {"a", "d"}
    assert set(loaded.policies) == {"careful"}
    assert loaded.pairs == {"a": "careful", "d": "fast"}
    assert [Path(problem.file).name for problem in loaded.problems] == ["b.yml", "c.yaml"]


def test_a_policy_that_does_not_fit_is_told_at_its_place_and_makes_no_pair(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY.replace("NAME", "p"))
    (tmp_path / "a.yaml").write_text(service("a", "policy: p.yaml"))
    loaded = load_directory(tmp_path)
    assert set(loaded.services) == {"a"}
    assert loaded.pairs == {}
    assert {
        str(problem).removeprefix(f"{tmp_path}/p.yaml:").partition(": ")[0] for problem in loaded.problems
    } == {
        "4:18",
        "7:14",
        "7:34",
    }


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a", "policy: policies/none.yaml"))
    (problem,) = load_directory(tmp_path).problems
    assert str(problem).startswith(
        f"{tmp_path}/a.yaml:8:9: policy: no such policy 'policies/none.yaml'; allowed: "
    )


def test_names_and_matches_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(service("a"))
    (tmp_path / "2.yaml").write_text(service("a").replace("/a", "/b"))
    (tmp_path / "3.yaml").write_text(service("c").replace("/c", "/a"))
    (tmp_path / "4.yaml").write_text(POLICY.replace("NAME", "p"))
    (tmp_path / "5.yaml").write_text(POLICY.replace("NAME", "p"))
    loaded = load_directory(tmp_path)
    assert [service.match.path for service in loaded.services.values()] == ["/a"]
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in loaded.problems] == [
        f"2.yaml:3:7: name: 'a' is already the name in {tmp_path}/1.yaml",
        f"3.yaml:4:8: match: the same requests as service a in {tmp_path}/1.yaml",
        f"5.yaml:3:7: name: 'p' is already the name in {tmp_path}/4.yaml",
    ]


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Deployment\n")
    (tmp_path / "b.yaml").write_text("a: 1\n")
    assert [problem.message for problem in load_directory(tmp_path).problems] == [
        "found 'Deployment'; allowed: ModelService, RolloutPolicy",
        "found nothing; allowed: ModelService, RolloutPolicy",
    ]


def test_links_do_not_lead_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "missing")
    loaded = load_directory(tmp_path)
    assert set(loaded.services) == {"a"}
    assert [problem.message for problem in loaded.problems] == ["no such file"]


@pytest.mark.parametrize(("name", "told"), [("missing", "no such directory"), ("file", "not a directory")])
def test_what_is_no_directory(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=told):
        load_directory(tmp_path / name)


def test_an_empty_directory(tmp_path: Path) -> None:
    assert load_directory(tmp_path).problems == ()


def test_a_policy_outside_the_files_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY.replace("NAME", "p"))
    services = tmp_path / "services"
    services.mkdir()
    (services / "a.yaml").write_text(service("a", "policy: ../p.yaml", *FITTING))
    loaded = load_directory(services)
    assert loaded.pairs == {}
    (problem,) = loaded.problems
    assert str(problem).startswith(
        f"{services}/a.yaml:8:9: policy: '../p.yaml' is not among the files read here"
    )
    assert "fairness-regulated, fast, guarded, llm, low-traffic, shadow-only" in problem.message


def test_a_policy_that_is_a_service_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a", "policy: a.yaml"))
    (problem,) = load_directory(tmp_path).problems
    assert problem.message == "'a.yaml' is a ModelService; a RolloutPolicy file is needed here"


def test_a_policy_that_is_broken_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a", "policy: p.yaml", *FITTING))
    (tmp_path / "p.yaml").write_text("kind: [")
    assert [Path(problem.file).name for problem in load_directory(tmp_path).problems] == ["p.yaml"]
