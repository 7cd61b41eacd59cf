"""`accede abort --direct`: on the routers' own admin sockets, with neither store nor controller."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AccedeError
from ..router.parent.admin import admin_call
from .options import Format
from .output import emit

if TYPE_CHECKING:
    from rich.console import Console


def abort_directly(
    service: str, sockets: Sequence[Path], reason: str, output: Format, timeout: float
) -> None:
    """Send stable alone through every router named. Each is tried, also when one before it fails.

    Raises AccedeError naming every router that could not be told, or not all of whose workers confirmed.
    """
    request = {"do": "abort", "service": service, "reason": reason}
    answers: list[dict[str, Any]] = []
    failed: list[str] = []
    for socket in sockets:
        try:
            answer = admin_call(socket, request, timeout)
        except AccedeError as problem:
            failed.append(str(problem))
            continue
        answers.append({"socket": str(socket), **answer})
        if answer["workers"] < answer["of"]:
            failed.append(
                f"router at {socket}: {answer['workers']} of {answer['of']} workers have confirmed; ask again"
            )

    def table(console: Console) -> None:
        for answer in answers:
            console.print(
                f"{service}: aborted at {answer['socket']}, "
                f"{answer['workers']} of {answer['of']} workers on stable",
                markup=False,
            )

    emit({"aborted": answers, "failed": failed}, output, table)
    if failed:
        raise AccedeError("\n".join(failed))
