"""What answers tell beside predictions, as sums: streams and output tokens (table in store/evidence.py).

Which exchanges have which y:

stream.first_token   streams only. An error is over every threshold, so is a stream that another arm had to
                     answer. Left by its client or still open: when output began, else what its age passed.
                     Ended without any output: its whole duration.
stream.truncated     streams that began and came to an end: told incomplete, or cut off. Not those that
                     failed before they began (errors has them), nor those left or still open.
tokens.output        whole answers without an error; so is tokens.limited
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ...store.evidence import ArmKey, Series, SeriesKey
from ...store.histogram import BINS, bin_of, value_bin
from ...store.measurement import CLUSTERS, MeasurementPlan
from ..facts import Ending, Fact, Pair
from .openai import OpenAi, Reply, wants_stream
from .sums import Difference, Put, Ranks, column

PREFIX: Final = "stream.first_token."
_ENDED_EARLY: Final = (Ending.TRUNCATED, Ending.TIMEOUT)


class Told(NamedTuple):
    """One exchange's y; None where it has none.

    `failed`: an error was told in the body. `rank`: over how many first-token thresholds; `bin`: of the
    time to the first token itself. `tokens`: as they were counted.
    """

    failed: bool = False
    rank: int | None = None
    bin: int | None = None
    truncated: bool | None = None
    limited: bool | None = None
    tokens: int | None = None


class _Cell:
    """One arm's sums."""

    __slots__ = (
        "bins", "limited", "limited_n", "over", "streams", "tokens", "tokens2", "tokens_n", "truncated",
        "truncated_n",
    )  # fmt: skip

    def __init__(self, ranks: Ranks, unit_clusters: int) -> None:
        self.streams = column(CLUSTERS)
        self.over = column((ranks.top + 1) * CLUSTERS)
        self.truncated_n, self.truncated = column(CLUSTERS), column(CLUSTERS)
        self.limited_n, self.limited = column(CLUSTERS), column(CLUSTERS)
        self.tokens_n, self.tokens, self.tokens2 = (column(unit_clusters) for _ in range(3))
        self.bins = [0] * BINS


class ReplyFold:
    """The sums of what answers of one epoch told."""

    def __init__(self, plan: MeasurementPlan) -> None:
        thresholds = [one for one in plan.thresholds if one.metric.startswith(PREFIX)]
        self._ranks = Ranks(thresholds, BINS)
        self._most = plan.tokens
        self._baseline = plan.stage == "baseline"
        clusters = CLUSTERS if plan.sticky else 1
        self._arms = (_Cell(self._ranks, clusters), _Cell(self._ranks, clusters))
        self._pair_truncated = Difference()
        self._pair_tokens = Difference()
        self.counts: dict[int, int] = {}

    def told(self, fact: Fact, *, failed: bool, streamed: bool, reply: Reply | None) -> Told:
        """The y of an exchange. `failed`: it was an error already; `streamed`: it was to be a stream."""
        reply_failed = reply is not None and reply.failed
        whole = reply is not None and fact.ending == Ending.ANSWERED and not failed and not reply_failed
        limited = reply.limited if whole and reply is not None else None
        tokens = reply.tokens if whole and reply is not None else None
        if not streamed:
            return Told(reply_failed, None, None, None, limited, tokens)
        truncated: bool | None = None
        if fact.served == fact.arm:
            if fact.ending == Ending.ANSWERED and not failed and reply is not None:
                truncated = not reply.ended
            elif fact.ending in _ENDED_EARLY and fact.first > 0.0:
                truncated = True
        if failed or reply_failed:
            return Told(reply_failed, self._ranks.top, None, truncated, limited, tokens)
        began = self._began(fact, reply)
        if began is not None:
            place = bin_of(began)
            return Told(False, self._ranks.of_bin[place], place, truncated, limited, tokens)
        rank = self._ranks.of_bin[bin_of(fact.latency)]
        return Told(False, rank, None, truncated, limited, tokens)

    @staticmethod
    def _began(fact: Fact, reply: Reply | None) -> float | None:
        """Seconds to the first output. The first byte of the body stands for it where nothing is nearer."""
        if reply is not None and not reply.spoke:
            return None
        if reply is not None and reply.first is not None:
            return reply.first
        return fact.first if fact.first > 0.0 else None

    def add(self, arm: int, at: int, unit: int, told: Told) -> None:
        """Account one exchange in time cluster `at` and unit cluster `unit`."""
        cell = self._arms[arm]
        if told.rank is not None:
            cell.streams[at] += 1
            cell.over[told.rank * CLUSTERS + at] += 1
            if told.bin is not None:
                cell.bins[told.bin] += 1
        if told.truncated is not None:
            cell.truncated_n[at] += 1
            cell.truncated[at] += told.truncated
        if told.limited is not None:
            cell.limited_n[at] += 1
            cell.limited[at] += told.limited
        if told.tokens is None:
            return
        if self._baseline and arm == 0:
            place = value_bin(told.tokens)
            self.counts[place] = self.counts.get(place, 0) + 1
        y = self._scaled(told.tokens)
        if y is not None:
            cell.tokens_n[unit] += 1
            cell.tokens[unit] += y
            cell.tokens2[unit] += y * y

    def _scaled(self, tokens: int) -> float | None:
        return None if self._most is None else min(1.0, tokens / self._most)

    def add_pair(self, cluster: int, stable: Told, shadow: Told) -> None:
        """Account both sides of one mirrored request, where both have a y."""
        if stable.truncated is not None and shadow.truncated is not None:
            self._pair_truncated.add(cluster, float(shadow.truncated), float(stable.truncated))
        if stable.tokens is not None and shadow.tokens is not None:
            ours, theirs = self._scaled(stable.tokens), self._scaled(shadow.tokens)
            if ours is not None and theirs is not None:
                self._pair_tokens.add(cluster, theirs, ours)

    def series(self, into: dict[SeriesKey, Series], names: tuple[ArmKey, ArmKey]) -> None:
        """Put every series that has an observation into `into`."""
        for name, cell in zip(names, self._arms, strict=True):
            put = Put(into, name, "")
            put.over(self._ranks.names, cell.streams, cell.over)
            put.events("stream.truncated", cell.truncated_n, cell.truncated)
            put.events("tokens.limited", cell.limited_n, cell.limited)
            put.sums("tokens.output", cell.tokens_n, cell.tokens, cell.tokens2)
        for metric, sums in (
            ("stream.truncated", self._pair_truncated),
            ("tokens.output", self._pair_tokens),
        ):
            Put(into, "pair", "").sums(metric, sums.n, sums.d, sums.d2)
            Put(into, "paired_stable", "").sums(metric, sums.n, sums.y, sums.y2)

    def histograms(self, names: tuple[ArmKey, ArmKey]) -> dict[str, dict[int, int]]:
        """Time to the first token by arm: {bin: count}."""
        return {
            name: {index: count for index, count in enumerate(cell.bins) if count}
            for name, cell in zip(names, self._arms, strict=True)
            if any(cell.bins)
        }


def sides_of(
    form: OpenAi, pair: Pair, failed: Callable[[int, int], bool]
) -> tuple[list[Any] | None, list[Any] | None, tuple[Told, Told]]:
    """What stands where predictions stand on stable's side and on the shadow's, and what else both told.

    A copy's first token is nobody's wait, so no side has one.
    """
    stable = _reply(form, pair.stable_ending, pair.stable_response, pair.stable_encoding)
    shadow = _reply(form, pair.shadow_ending, pair.shadow_response, pair.shadow_encoding)
    streamed = any(reply is not None and reply.streamed for reply in (stable, shadow))
    if not streamed and (stable is None or shadow is None):
        streamed = wants_stream(pair.request, pair.request_encoding)
    ours, theirs = (
        _pair_told(ending, reply, failed=failed(ending, status), streamed=streamed)
        for ending, status, reply in (
            (pair.stable_ending, pair.stable_status, stable),
            (pair.shadow_ending, pair.shadow_status, shadow),
        )
    )
    return (
        _values(pair.stable_status, stable, failed),
        _values(pair.shadow_status, shadow, failed),
        (ours, theirs),
    )


def _reply(form: OpenAi, ending: int, body: bytes, encoding: str) -> Reply | None:
    return form.reply(body, encoding) if ending == Ending.ANSWERED and body else None


def _values(status: int, reply: Reply | None, failed: Callable[[int, int], bool]) -> list[Any] | None:
    if reply is None or reply.failed or failed(Ending.ANSWERED, status):
        return None
    return reply.values


def _pair_told(ending: int, reply: Reply | None, *, failed: bool, streamed: bool) -> Told:
    truncated: bool | None = None
    if streamed and ending == Ending.TRUNCATED:
        truncated = True
    elif reply is None or failed:
        return Told()
    elif streamed:
        truncated = not reply.ended
    if reply is None or reply.failed:
        return Told(reply is not None, truncated=truncated)
    return Told(truncated=truncated, tokens=reply.tokens)
