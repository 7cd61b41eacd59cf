"""Which store this is: a random name written once, so that an emptied or exchanged one is noticed.

A process that read one store and finds another under the same address must not take its silence for truth: to
whoever knows nothing, every service is new.
"""

from __future__ import annotations

import os

from ...errors import StoreError
from .connection import Connection


class Identity:
    """The name of the store that a connection was opened to; written where there is none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connection.call("SET", connection.keys.identity, os.urandom(12).hex(), "NX")
        found = connection.call("GET", connection.keys.identity)
        self.value: bytes = found or b""

    def check(self, found: bytes | None) -> None:
        """Raise StoreError unless that is this store's name."""
        if found != self.value:
            raise self.replaced()

    def replaced(self) -> StoreError:
        """What to say of a store that is another one now."""
        return StoreError(
            f"store {self._connection.place} was emptied or replaced while in use: restore it from a copy, "
            "or restart this process to begin with what the store has now"
        )
