"""The parent's eye on the TLS files that clients are served with."""

from __future__ import annotations

import contextlib
from time import monotonic

from ...errors import UsageError
from ..proxy.tls import LOOK, Pem, Renewal, Spare, TlsFiles, server_context


class Certificate:
    """Keeps the last good files: a worker that starts while they are broken gets those.

    The workers watch the files too and say what they think of them, so nothing is said here.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises UsageError: the files cannot be used."""
        seen = files.seen()
        pem = Pem.read(files)
        server_context(pem, files)
        self.spare = Spare()
        self.spare.keep(pem)
        self.renewal = Renewal(files, seen)
        self._looked_at = 0.0

    def look(self) -> None:
        """Take over what has changed, once a second."""
        if monotonic() - self._looked_at < LOOK:
            return
        self._looked_at = monotonic()
        with contextlib.suppress(UsageError):
            found = self.renewal.look()
            if found is not None:
                self.spare.keep(found[0])
