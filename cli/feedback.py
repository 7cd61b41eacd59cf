"""The verb `feedback`: send labels that came later to the controller, in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .options import DEFAULT_API, Api, Format, Output, Service, Timeout

if TYPE_CHECKING:
    from ..store.labels import LabelCounts
    from .labels_file import LabelLine

_BATCH: Final = 2_000  # labels
_BYTES: Final = 2**19  # about so many of a batch
_SPARE: Final = 100  # bytes of a label beside its texts
_WORDS: Final = (
    ("new", "new"),
    ("duplicates", "known already"),
    ("conflicts", "another value is kept, this one is not"),
    ("unknown", "of the new ones without a prediction yet"),
    ("expired", "of predictions that are no longer kept"),
    ("no_room", "refused: no room"),
)


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(feedback)


def feedback(
    service: Service,
    file: Annotated[
        Path,
        typer.Argument(
            help="Labels: CSV with the columns request_id and value, or JSON Lines (.jsonl) with those keys.",
            show_default=False,
        ),
    ],
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Send what turned out to be true for requests, days later. Sending it twice changes nothing."""
    import msgspec

    from ..store.labels import LabelCounts
    from .client import Client
    from .labels_file import check, labels
    from .output import emit

    total = check(file)  # every line, before any is sent
    counts, sent = LabelCounts(), 0
    with Client(api, timeout) as client:
        for batch in _batches(labels(file)):
            counts = _added(counts, client.feedback(service, batch))
            sent += len(batch)
            if sys.stderr.isatty():
                print(f"\r{sent} of {total} labels", end="", file=sys.stderr, flush=True)  # noqa: T201
    if sys.stderr.isatty():
        print(file=sys.stderr)  # noqa: T201
    emit(
        msgspec.to_builtins(counts), output,
        lambda console: console.print("\n".join(_told(service, total, counts))),
    )  # fmt: skip
    if counts.conflicts or counts.no_room:
        raise typer.Exit(1)


def _told(service: str, total: int, counts: LabelCounts) -> Iterator[str]:
    yield f"{service}: {total} labels sent"
    for name, words in _WORDS:
        count = getattr(counts, name)
        if count or name == "new":
            yield f"{count:>9} {words}"


def _added(one: LabelCounts, other: LabelCounts) -> LabelCounts:
    return type(one)(*(getattr(one, name) + getattr(other, name) for name in one.__struct_fields__))


def _batches(lines: Iterable[LabelLine]) -> Iterator[list[LabelLine]]:
    batch: list[LabelLine] = []
    size = 0
    for line in lines:
        length = _SPARE + len(str(line.value)) + len(line.request_id) + len(line.at) + len(str(line.groups))
        if batch and (len(batch) == _BATCH or size + length > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += length
    if batch:
        yield batch
