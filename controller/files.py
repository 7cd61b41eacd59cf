"""The declared files, read at the start and again when they change.

A file that cannot be read any more changes nothing that runs: its service keeps the last good
declaration, so a rollout can go on, and only a new start needs the file as it is now.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import Conflict, FileError, NotFound, Problem
from ..policies import library
from ..policies.load import Loaded, load_directory, parse_policy
from ..policies.policy import RolloutPolicy
from ..policies.service import ModelService

POLL_EVERY: Final = 1.0  # seconds

_Fingerprint = frozenset[tuple[str, int, int]]


class ServiceFiles:
    """What a directory declares. `current`: as it is now; `known`: with the last good one of each service.

    Raises FileError where the directory does not exist.
    """

    def __init__(self, directory: Path | None, load: Callable[[Path], Loaded] = load_directory) -> None:
        self.directory = directory
        self._load = load
        self._polled = float("-inf")
        self._seen: _Fingerprint = frozenset()
        self.loaded = Loaded()
        self.known: dict[str, ModelService] = {}
        self.version = 0
        if directory is not None:
            self._read(directory)

    @property
    def current(self) -> dict[str, ModelService]:
        """The services whose files can be read now."""
        return self.loaded.services

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong in the files now."""
        return self.loaded.problems

    def poll(self, now: float) -> bool:
        """Read the files again if they have changed, at most once a second; True where they had."""
        if self.directory is None or abs(now - self._polled) < POLL_EVERY:
            return False
        self._polled = now
        if _fingerprint(self.directory) == self._seen:
            return False
        try:
            self._read(self.directory)
        except FileError as gone:
            self.loaded = Loaded(problems=gone.problems)
            self._seen = frozenset()
        return True

    def service(self, name: str) -> ModelService:
        """The service as its file declares it now. Raises NotFound, or Conflict where the file is broken."""
        found = self.current.get(name)
        if found is not None:
            return found
        if name in self.known:
            first = f": {self.problems[0]}" if self.problems else ""
            raise Conflict(f"the file of service {name!r} is gone or cannot be read now{first}")
        raise NotFound(f"no service {name!r}; there are: {', '.join(sorted(self.known)) or 'none'}")

    def policy(self, service: ModelService, name: str | None, text: str | None, file: str) -> RolloutPolicy:
        """The policy a start asks for: by its text, by name (declared files first, then the library), or
        the one that the service names. Raises FileError, Conflict.
        """
        if text is not None:
            return parse_policy(text, file)
        if name is None:
            name = self.loaded.pairs.get(service.name)
        if name is None:
            raise Conflict(self._why_none(service))
        declared = self.loaded.policies.get(name)
        if declared is not None:
            return declared
        if "/" in name or "\\" in name:
            raise Conflict(f"policy {name!r} is a path; send the text of a file, or name a policy")
        if name not in library.names():  # and never a file of the working directory
            declared_names = ", ".join(self.loaded.policies) or "none"
            problem = (
                f"no such file or library policy; the library has: {', '.join(library.names())}; "
                f"the files declare: {declared_names}"
            )
            raise FileError((Problem(name, 1, 1, "", problem),))
        return parse_policy(library.read(name), f"{name}.yaml")

    def _why_none(self, service: ModelService) -> str:
        if service.policy is None:
            return f"service {service.name!r} names no policy; give one with -p, or write it into its file"
        about = [problem for problem in self.problems if service.policy in str(problem)] or self.problems
        told = f": {about[0]}" if about else ""
        return (
            f"the policy {service.policy!r} that service {service.name!r} names cannot be used{told}; "
            "give another with -p, or correct the file"
        )

    def _read(self, directory: Path) -> None:
        self._seen = _fingerprint(directory)  # before reading: what changes meanwhile is read again
        self.loaded = self._load(directory)
        self.known = self.known | self.loaded.services
        self.version += 1


def _fingerprint(directory: Path) -> _Fingerprint:
    found: set[tuple[str, int, int]] = set()
    try:
        for path in directory.rglob("*.y*ml"):
            state = path.stat()
            found.add((str(path), state.st_mtime_ns, state.st_size))
    except OSError:
        return frozenset(found | {("unreadable", 0, 0)})
    return frozenset(found)
