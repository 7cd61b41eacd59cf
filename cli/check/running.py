"""Going through the rows: against live endpoints, or over recorded answers. Both end in the same Run."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreachable
from ...router.facts import Ending
from ...router.observer.failures import Failures
from .dataset import Row
from .latency import Latencies
from .order import Order
from .outcome import State
from .recorded import Joined
from .sending import Endpoint, each
from .trial import Answer, Trial

_FIRST: Final = 20  # rows of which stable must have answered one, or there is nothing to compare with
_ANSWERED: Final = 0.5  # share of its rows that each version must have answered with success


class Progress:
    """A line on stderr now and then: every second on a terminal, every ten in a log."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._every = 1.0 if sys.stderr.isatty() else 10.0
        self._next = monotonic() + self._every

    def one(self) -> None:
        """One row is done."""
        self._done += 1
        now = monotonic()
        if now >= self._next:
            self._next = now + self._every
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"accede: {self._done} of {self._total} rows", file=sys.stderr, end=end, flush=True)  # noqa: T201

    def end(self) -> None:
        """Leave the terminal's line."""
        if sys.stderr.isatty() and self._done:
            print(file=sys.stderr)  # noqa: T201


@dataclass(slots=True)
class Heard:
    """How often one version answered with success. `others`: what it did instead.

    A gate on errors counts what the service declares to be errors, so without this a version that answers
    everything with 404, or both failing alike, would be no worse than the other.
    """

    answered: int = 0
    others: Counter[str] = field(default_factory=Counter[str])

    def take(self, answer: Answer) -> None:
        """One answer."""
        if answer.ending != Ending.ANSWERED:
            self.others[answer.ending.name.lower()] += 1
        elif answer.status // 100 != 2:  # noqa: PLR2004  (what a server calls success)
            self.others[f"status {answer.status}"] += 1
        else:
            self.answered += 1

    def problem(self, version: str) -> str:
        """'' or that it answered too few."""
        asked = self.answered + self.others.total()
        if self.answered >= _ANSWERED * asked:
            return ""
        return (
            f"version {version} answered {self.answered} of {asked} rows with success (2xx); most often: "
            f"{self.others.most_common(1)[0][0]}; look at the server, the rows or the path they are sent to"
        )


@dataclass(slots=True)
class Taken:
    """What was gone through so far. `problem`: why nothing was frozen."""

    trial: Trial
    latencies: Latencies
    failures: Failures
    timed: bool = True
    baseline: int = 0
    pairs: int = 0
    frozen: bool = False
    problem: str = ""
    state: State = "complete"
    stable: Heard = field(default_factory=Heard)
    candidate: Heard = field(default_factory=Heard)

    def alone(self, block: int, row: Row, answer: Answer) -> None:
        """One row of the baseline."""
        self.baseline += 1
        self.stable.take(answer)
        self.trial.stable_alone(block, row.body, answer)
        if self._fine(answer):
            self.latencies.stable_alone(answer.latency)

    def freeze(self) -> None:
        """End the baseline."""
        self.problem = self.trial.freeze(self.latencies.thresholds())
        self.frozen = not self.problem

    def pair(self, block: int, row: Row, stable: Answer, candidate: Answer) -> None:
        """One pair."""
        self.pairs += 1
        self.stable.take(stable)
        self.candidate.take(candidate)
        self.trial.pair(block, row, stable, candidate)

    def unanswered(self) -> str:
        """'' or which version answered too few rows: what both fail alike is no comparison."""
        if self.state != "complete":
            return ""  # it does not pass anyway
        return self.stable.problem(self.trial.stable) or self.candidate.problem(self.trial.candidate)

    def _fine(self, answer: Answer) -> bool:
        return answer.ending == Ending.ANSWERED and not self.failures.failed(answer.ending, answer.status)


async def live(
    taken: Taken, row_of: Callable[[int], Row], order: Order, stable: Endpoint, candidate: Endpoint,
    together: int, timeout: float | None,
) -> None:  # fmt: skip
    """Send everything. What ends it early is in `taken.state`. Raises Unreachable."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    work = loop.create_task(_all(taken, row_of, order, stable, candidate, together))
    stopped = loop.create_task(stopping.wait())
    try:
        await asyncio.wait({work, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            taken.state = "interrupted" if stopping.is_set() else "timed out"
            work.cancel()
            await asyncio.wait({work})
        elif (problem := work.exception()) is not None:
            raise _first(problem)
    finally:
        stopped.cancel()
        await asyncio.gather(stable.close(), candidate.close())


def _first(problem: BaseException) -> BaseException:
    """The first error of a group, as it is."""
    if not isinstance(problem, BaseExceptionGroup):
        return problem
    group = cast("BaseExceptionGroup[BaseException]", problem)
    return _first(group.exceptions[0])


async def _all(
    taken: Taken, row_of: Callable[[int], Row], order: Order, stable: Endpoint, candidate: Endpoint,
    together: int,
) -> None:  # fmt: skip
    for endpoint in (stable, candidate):
        reason = await endpoint.reachable()
        if reason:
            raise Unreachable(f"version {endpoint.name}: {reason}; start it, or give another address")
    progress = Progress(order.baseline.size + order.pairs.size)

    async def alone(item: tuple[Row, int]) -> None:
        row, block = item
        taken.alone(block, row, await stable.ask(row.body))
        progress.one()
        if taken.baseline >= _FIRST and not taken.stable.answered:
            raise Unreachable(
                f"version {stable.name}: none of the first {_FIRST} rows was answered with success ("
                f"{taken.stable.others.most_common(1)[0][0]}); look at the server, or at --path and "
                "limits.deadline"
            )

    async def both(item: tuple[Row, int]) -> None:
        row, block = item
        async with asyncio.TaskGroup() as group:
            ours = group.create_task(stable.ask(row.body))
            theirs = group.create_task(candidate.ask(row.body))
        taken.pair(block, row, ours.result(), theirs.result())
        progress.one()

    await each(_numbered(row_of, order.baseline, order.baseline_block), together, alone)
    if taken.baseline:
        taken.freeze()
    if taken.frozen:
        await each(_numbered(row_of, order.pairs, order.pair_block), together, both)
    progress.end()


def over(taken: Taken, files: Joined, order: Order, timeout: float | None) -> int:
    """Go over recorded answers; how many of the candidate's are missing."""
    progress = Progress(len(files))
    until = inf if timeout is None else monotonic() + timeout
    lost = 0
    try:
        for index, block in zip(order.baseline, order.baseline_block, strict=True):
            row, answer = files.stable(int(index))
            taken.alone(int(block), row, answer)
            progress.one()
        if taken.baseline:
            taken.freeze()
        pairs = zip(order.pairs, order.pair_block, strict=True) if taken.frozen else ()
        for block, row, ours, theirs in files.pairs((int(index), int(block)) for index, block in pairs):
            if monotonic() >= until:
                taken.state = "timed out"
                break
            if theirs is None:
                lost += 1
                taken.trial.unanswered(block, row.body, ours)
            else:
                taken.pair(block, row, ours, theirs)
            progress.one()
    except KeyboardInterrupt:
        taken.state = "interrupted"
    progress.end()
    return lost


def _numbered(
    row_of: Callable[[int], Row], rows: NDArray[np.int64], blocks: NDArray[np.int64]
) -> Iterator[tuple[Row, int]]:
    for index, block in zip(rows, blocks, strict=True):
        yield row_of(int(index)), int(block)
