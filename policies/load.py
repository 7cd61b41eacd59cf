"""Files and texts become services and policies; everything wrong with them is raised at once.

    text -> `yaml` (data, positions) -> `reading` (keys, values) -> rules -> a frozen model

`load_directory` reads a whole tree as a repository holds it; one bad file affects itself alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from ..errors import FileError, Problem
from . import library
from .canonical import canonical, policy_from_canonical, policy_hash, service_from_canonical
from .metrics import with_default_margins
from .pair_rules import check_pair, require_pair
from .policy import RolloutPolicy
from .policy_rules import check_durations, check_metrics, check_policy
from .quantities import found
from .reading import Reading, check_keys, near, validate
from .service import ModelService
from .service_rules import check_service
from .text import START, read_file, shorten
from .yaml import Document, load_yaml

__all__ = [
    "Loaded",
    "canonical",
    "check_pair",
    "load_directory",
    "load_policy",
    "load_service",
    "parse_policy",
    "parse_service",
    "policy_document",
    "policy_from_canonical",
    "policy_hash",
    "require_pair",
    "service_from_canonical",
]

SUFFIXES: Final = (".yaml", ".yml")
MAX_FILES: Final = 10_000
_KINDS: Final = ("ModelService", "RolloutPolicy")


_Service: TypeAlias = tuple[ModelService, Document]
_Policy: TypeAlias = tuple[RolloutPolicy, Document]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a directory declares, by the names in the files; `pairs`: service -> the name of its policy.

    A pair is there only where the service names a policy that could be read and fits it.
    """

    services: dict[str, ModelService] = field(default_factory=dict[str, ModelService])
    policies: dict[str, RolloutPolicy] = field(default_factory=dict[str, RolloutPolicy])
    pairs: dict[str, str] = field(default_factory=dict[str, str])
    problems: tuple[Problem, ...] = ()


def load_service(path: Path | str) -> ModelService:
    """The service of a file. Raises FileError with every problem of the file."""
    return parse_service(read_file(Path(path)), file=str(path))


def load_policy(path_or_name: Path | str) -> RolloutPolicy:
    """The policy of a file, or the library policy of that name. Raises FileError with every problem."""
    return parse_policy(*_policy_source(path_or_name))


def policy_document(path_or_name: Path | str) -> tuple[RolloutPolicy, Document]:
    """As `load_policy`, with the document, so that `check_pair` can tell lines and columns."""
    content, file = _policy_source(path_or_name)
    document = load_yaml(content, file)
    return _policy(document), document


def parse_service(content: str | bytes, file: str = "service.yaml") -> ModelService:
    """The service of a text; `file` is the name that problems show. Raises FileError."""
    return _service(load_yaml(content, file))


def parse_policy(content: str | bytes, file: str = "policy.yaml") -> RolloutPolicy:
    """The policy of a text, default margins filled in; `file` is the name in problems. Raises FileError."""
    return _policy(load_yaml(content, file))


def load_directory(path: Path | str) -> Loaded:
    """Every service and policy below a directory. Never raises for what a file says: see `problems`.

    Of two files with the same name, or the same requests to match, the first in path order stands.
    Folders that begin with a dot are passed over. Raises FileError where there is no such directory.
    """
    root = Path(path)
    if not root.is_dir():
        what = "not a directory" if root.exists() else "no such directory"
        raise FileError((Problem(str(path), START.line, START.column, "", what),))
    tree = _Tree(root)
    for count, file in enumerate(_files(root)):
        if count == MAX_FILES:
            tree.problems.append(
                Problem(str(root), 1, 1, "", f"more than {MAX_FILES} files; the rest is not read")
            )
            break
        tree.read(file)
    tree.pair()
    return Loaded(
        {name: service for name, (service, _) in tree.services.items()},
        {name: policy for name, (policy, _) in tree.policies.items()},
        tree.pairs,
        tuple(tree.problems),
    )


def _policy_source(path_or_name: Path | str) -> tuple[str | bytes, str]:
    name = str(path_or_name)
    names = library.names()
    if isinstance(path_or_name, str) and name in names:
        return library.read(name), f"library:{name}"
    try:
        return read_file(Path(path_or_name)), name
    except FileError as missing:
        first = missing.problems[0]
        if first.message != "no such file" or "/" in name or name.endswith(SUFFIXES):
            raise
        message = f"no such file or library policy; {near(name, names)}the library has: {', '.join(names)}"
        raise FileError((Problem(shorten(name, 300), first.line, first.column, "", message),)) from None


def _service(document: Document) -> ModelService:
    reading = _begin(document, "ModelService")
    data = check_keys(ModelService, document.data, (), reading)
    service = validate(ModelService, data, (), reading)
    check_service(data, reading)
    reading.finish()
    assert service is not None, "validate reports what it refuses"  # noqa: S101
    return service


def _policy(document: Document) -> RolloutPolicy:
    reading = _begin(document, "RolloutPolicy")
    data = check_keys(RolloutPolicy, document.data, (), reading)
    check_metrics(data, reading)
    policy = validate(RolloutPolicy, data, (), reading)
    check_policy(data, reading)
    if policy is not None:
        check_durations(policy, reading)
    reading.finish()
    assert policy is not None, "validate reports what it refuses"  # noqa: S101
    return policy.model_copy(update={"gates": tuple(with_default_margins(gate) for gate in policy.gates)})


def _begin(document: Document, kind: str) -> Reading:
    """A reading of a file of the right kind; of another kind's file nothing else is worth saying."""
    reading = Reading(document)
    given = document.data.get("kind")
    if given in _KINDS and given != kind:
        reading.add(("kind",), f"found {found(given)}; a {kind} file is needed here")
        reading.finish()
    return reading


@dataclass(slots=True)
class _Tree:
    """What is read so far of a directory."""

    root: Path
    services: dict[str, _Service] = field(default_factory=dict[str, _Service])
    policies: dict[str, _Policy] = field(default_factory=dict[str, _Policy])
    pairs: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[Problem] = field(default_factory=list[Problem])
    seen: set[Path] = field(default_factory=set[Path])

    def read(self, path: Path) -> None:
        self.seen.add(path.resolve())
        try:
            document = load_yaml(read_file(path), str(path))
            kind = document.data.get("kind")
            if kind == "ModelService":
                self._keep_service(_service(document), document)
            elif kind == "RolloutPolicy":
                self._keep_policy(_policy(document), document)
            else:
                hint = near(kind, _KINDS) if isinstance(kind, str) else ""
                self._add(document, "kind", f"found {found(kind)}; {hint}allowed: {', '.join(_KINDS)}")
        except FileError as wrong:
            self.problems.extend(wrong.problems)

    def pair(self) -> None:
        """Find the policy each service names, and check that it fits."""
        by_file = {Path(document.file).resolve(): name for name, (_, document) in self.policies.items()}
        for service, document in self.services.values():
            if service.policy is None:
                continue
            beside, below = Path(document.file).parent / service.policy, self.root / service.policy
            name = by_file.get(beside.resolve()) or by_file.get(below.resolve())
            if name is not None:
                self._check(service, *self.policies[name])
                continue
            if service.policy in library.names():
                self._check(service, *policy_document(service.policy))
                continue
            file = next((one.resolve() for one in (beside, below) if one.is_file()), None)
            problem = self._why_no_policy(service.policy, file)
            if problem is not None:
                self._add(document, "policy", problem)

    def _why_no_policy(self, policy: str, file: Path | None) -> str | None:
        """What is wrong with the policy a service names; None where its own file's problems say it."""
        library_has = ", ".join(library.names())
        if file is None:
            allowed = f"a policy file in this directory, or one of {library_has}"
            return f"no such policy {found(policy)}; allowed: {allowed}"
        if file not in self.seen:
            return (
                f"{found(policy)} is not among the files read here: .yaml and .yml below {self.root}, "
                "without folders that are links or begin with a dot; put it there, or name one of "
                f"{library_has}"
            )
        if any(Path(document.file).resolve() == file for _, document in self.services.values()):
            return f"{found(policy)} is a ModelService; a RolloutPolicy file is needed here"
        return None

    def _check(self, service: ModelService, policy: RolloutPolicy, document: Document) -> None:
        problems = check_pair(service, policy, document)
        self.problems.extend(problems)
        if not problems:
            self.pairs[service.name] = policy.name

    def _keep_service(self, service: ModelService, document: Document) -> None:
        for other, other_document in self.services.values():
            if other.name == service.name:
                self._add(
                    document, "name", f"{found(service.name)} is already the name in {other_document.file}"
                )
                return
            if other.match == service.match:
                self._add(
                    document, "match", f"the same requests as service {other.name} in {other_document.file}"
                )
                return
        self.services[service.name] = (service, document)

    def _keep_policy(self, policy: RolloutPolicy, document: Document) -> None:
        if policy.name in self.policies:
            other = self.policies[policy.name][1].file
            self._add(document, "name", f"{found(policy.name)} is already the name in {other}")
            return
        self.policies[policy.name] = (policy, document)

    def _add(self, document: Document, key: str, message: str) -> None:
        position = document.position((key,))
        self.problems.append(Problem(document.file, position.line, position.column, key, message))


def _files(root: Path) -> Iterator[Path]:
    """Files of ours in path order; links to folders are not followed, so there is no way round in circles."""
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry)
        elif entry.suffix in SUFFIXES:
            yield entry
