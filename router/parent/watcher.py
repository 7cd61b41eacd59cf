"""Reading the store from a thread: changes of routes and leases, as soon as the store tells of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...errors import AccedeError
from ...store.open import open_store
from ...store.protocol import RouterStore, Routes

_PAUSE = 0.5  # seconds before a store that failed is tried again


class Watcher:
    """Calls `found` with what the store says when it says something new, `failed` with why it cannot be read.

    Both are called from the thread.
    """

    def __init__(
        self, address: str, found: Callable[[Routes], None], failed: Callable[[AccedeError], None]
    ) -> None:
        self._address = address
        self._found = found
        self._failed = failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading; does not wait for a store that does not answer."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        store: RouterStore | None = None
        last: Routes | None = None
        while not self._stop.is_set():
            try:
                store = store or open_store(self._address)
                routes = store.routes()
            except AccedeError as problem:
                self._failed(problem)
                if store is not None:
                    store.close()
                store = last = None
                self._stop.wait(_PAUSE)
                continue
            if last is None or (routes.revision, routes.leases, routes.broken) != (
                last.revision,
                last.leases,
                last.broken,
            ):
                last = routes
                self._found(routes)
            store.wait()
        if store is not None:
            store.close()
