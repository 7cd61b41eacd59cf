"""The demo from beginning to end: what is started in which order, and what the person sees."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ...controller.api.shown import RolloutView
from ...errors import AccedeError
from ...policies.load import parse_policy, parse_service
from ...store.rollouts import Phase
from .. import tables
from ..client import Client
from ..processes import stopped_by_signals
from ..watching import on_change, until_settled
from .cast import SERVICE, Cast, material
from .models import CANDIDATES, STABLE, Data, Recipe, load_data
from .truth import require_good, truth_of

_LINE_EVERY: Final = 5.0  # seconds between lines where there is no terminal
_LONGEST_LINE: Final = 100
_LONGEST: Final = 150.0  # seconds for one rollout; the policy's own deadlines end it earlier
_EXPECTED = {"good": Phase.PROMOTED}  # every other candidate is to be rolled back


def tell(scenarios: Sequence[str], console: Console, timeout: float | None = None) -> list[dict[str, Any]]:
    """Play scenarios one after the other; returns how each ended, as plain data.

    Raises AccedeError where one does not end as it should, TimedOut after `timeout` seconds in all.
    """
    began = time.monotonic()
    data = load_data()
    with (
        stopped_by_signals(),
        tempfile.TemporaryDirectory(prefix="accede-demo-") as folder,
        Cast(Path(folder), _versions(scenarios), data) as cast,
    ):
        story = _Story(cast, data, console, None if timeout is None else began + timeout)
        story.prepare()
        ends = [story.play(version, scenario) for version, scenario in list(cast.versions.items())[1:]]
        story.sum_up(ends, time.monotonic() - began)
    return [{"scenario": scenario, **msgspec.to_builtins(view)} for scenario, view in ends]


def _versions(scenarios: Sequence[str]) -> dict[str, str]:
    """Version 1 is stable; each scenario's candidate has the next number."""
    return {"1": "stable", **{str(number): scenario for number, scenario in enumerate(scenarios, 2)}}


class _Story:
    def __init__(self, cast: Cast, data: Data, console: Console, until: float | None) -> None:
        self._cast = cast
        self._data = data
        self._console = console
        self._until = until
        self._truths: dict[str, str] = {}

    def prepare(self) -> None:
        """Models, proxy and controller, then the load."""
        count, patients = len(self._cast.versions), len(self._data.high)
        self._say(f"training and starting {count} versions of a model on {patients} patients …")
        self._cast.start_models()
        self._learn_truths()
        self._say("starting the proxy and the controller: accede serve …")
        self._cast.start_accede()
        capacity, rate = self._cast.probe()
        self._say(
            f"capacity here: {capacity:.0f} requests/s through the proxy; sending {rate:.0f}/s, open loop"
        )
        self._cast.start_load(rate)

    def play(self, version: str, scenario: str) -> tuple[str, RolloutView]:
        """One rollout to its end."""
        recipe = CANDIDATES[scenario]
        self._console.print()
        self._console.rule(Text(f"version {version} ({scenario}): {recipe.title}"), align="left")
        self._say(self._truths[version])
        typed = self._cast.start_rollout(version)
        self._say(f"$ {typed}")
        with self._cast.client() as client:
            view = self._watch(client)
            self._console.print()
            self._console.print(tables.headline(view))
            self._console.print(tables.gates([gate.verdict for gate in view.gates]))
            self._say(f"\n$ accede explain {SERVICE}")
            self._say(client.explain(SERVICE).explanation.sentence)
        expected = _EXPECTED.get(scenario, Phase.ROLLED_BACK)
        if view.phase is not expected:
            raise AccedeError(
                f"the {scenario} candidate should be {tables.phase_words(expected)}, and is "
                f"{tables.phase_words(view.phase)}: {view.reason}"
            )
        return scenario, view

    def _learn_truths(self) -> None:
        """What each candidate changes against the version that will be stable when its turn comes.

        Before the load starts, because training takes a core that the measured servers would miss.
        """
        policy = parse_policy(material("policy.yaml"), "policy.yaml")
        service = parse_service(material("service.yaml"), "service.yaml")
        stable: Recipe = STABLE
        for version, scenario in list(self._cast.versions.items())[1:]:
            candidate = CANDIDATES[scenario]
            truth = truth_of(stable, candidate, service.prediction.agree_within or 0.0, self._data)
            self._truths[version] = truth.sentence()
            if scenario == "good":
                self._truths[version] += "; " + require_good(truth, policy)
            if scenario in _EXPECTED:
                stable = candidate

    def sum_up(self, ends: Sequence[tuple[str, RolloutView]], seconds: float) -> None:
        """Last lines: the outcomes, and what the clients of the proxy noticed."""
        self._console.print()
        self._console.rule(Text(f"in {tables.span(seconds)}"), align="left")
        for scenario, view in ends:
            self._console.print(Text.assemble(f"{scenario}: ", tables.headline(view)))
        totals = self._cast.totals
        self._say(
            f"clients sent {totals.sent} requests: {totals.failed} without an answer, "
            f"{totals.refused} answered with an error"
        )

    def _watch(self, client: Client) -> RolloutView:
        """Show the rollout until it has ended or paused."""
        seconds = _LONGEST if self._until is None else max(1.0, min(_LONGEST, self._until - time.monotonic()))
        if not self._console.is_terminal:
            return until_settled(client, SERVICE, None, seconds, on_change(self._log, _LINE_EVERY))
        with Live(console=self._console, refresh_per_second=8, transient=True) as live:
            return until_settled(client, SERVICE, None, seconds, lambda view: live.update(self._scene(view)))

    def _log(self, view: RolloutView) -> None:
        waits = shorten(view.needs[0], _LONGEST_LINE) if view.needs else view.reason
        self._say(f"{tables.headline(view).plain}: {waits}")

    def _scene(self, view: RolloutView) -> RenderableType:
        return Group(tables.status(view), Text(), Text(self._traffic(), "dim"))

    def _traffic(self) -> str:
        totals = self._cast.totals
        by_version = ", ".join(
            f"{count} by version {version}" for version, count in sorted(totals.versions.items()) if version
        )
        return (
            f"clients: {totals.answered} answers ({by_version}), {totals.refused + totals.failed} failed, "
            f"p95 {totals.p95 * 1000:.0f} ms"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)
