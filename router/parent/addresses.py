"""Which addresses of model servers the workers of a host leave out, as the parent tells it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...store.rollouts import AddressState
from ..facts import UNWELL, Health

_LONGEST: Final = 300  # characters of an address: a host name has 253


def addresses(health: Iterable[Health | None]) -> tuple[AddressState, ...]:
    """One state per address that any worker leaves out, at most `UNWELL`, in order.

    Each worker judges by what it saw itself, so the states are counts of workers.
    """
    found: dict[tuple[str, str, str], list[int]] = {}
    for told in health:
        for one in () if told is None else told.unwell:
            counts = found.setdefault((one.service, one.version, one.address[:_LONGEST]), [0, 0])
            counts[0] += one.unready
            counts[1] += one.ejected
    return tuple(AddressState(*key, *counts) for key, counts in sorted(found.items())[:UNWELL])
