"""One service after another: they may lie on different servers, of which one may be down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def each(services: Iterable[str], act: Callable[[str], T], fault: type[E]) -> dict[str, T | E]:
    """What `act` gives for each, or the fault that it raised."""
    done: dict[str, T | E] = {}
    for service in services:
        try:
            done[service] = act(service)
        except fault as problem:
            done[service] = problem
    return done
