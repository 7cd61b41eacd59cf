"""What a person sees: rollouts, gates and the audit trail as tables, or as plain lines of a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..controller.api.leaders import leaderless
from ..controller.rollout.explain import estimate_of, interval_of, margin_of
from ..store.rollouts import AuditEntry, Finding, Outcome, Phase, Validity, Verdict
from .approvals import explained_lines, status_lines
from .comparisons import Comparison, Comparisons
from .informing import advice_lines, blame_lines, calibration_lines, drift_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..controller.api.shown import AddressView, Controllers, Explained, RolloutView, Services
    from ..store.evidence import MirrorCounts

_STYLES = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.ERROR: "bold magenta",
}
_WORST_FIRST = (Outcome.ERROR, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
_MARGIN = 3  # among the cells of a gate; its name has the margin too
_PHASES = {
    Phase.PROMOTED: "bold green",
    Phase.ROLLED_BACK: "bold red",
    Phase.ABORTED: "bold red",
    Phase.PAUSED: "bold yellow",
}


def phase_words(phase: Phase) -> str:
    """`rolled back`, not `rolled_back`."""
    return phase.value.replace("_", " ")


def span(seconds: float) -> str:
    """A length of time in its two largest units: `42 s`, `3 m 20 s`, `2 h 5 m`, `1 d 4 h`."""
    whole = max(0, round(seconds))
    for size, unit, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def moment(at: float) -> str:
    """A point in time, local, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def headline(view: RolloutView) -> Text:
    """Which service, which versions, where it stands."""
    text = Text.assemble(
        (view.service, "bold"),
        f": version {view.candidate} over {view.stable}, ",
        (phase_words(view.phase), _PHASES.get(view.phase, "bold")),
    )
    if view.step is not None and not view.phase.ended:
        text.append(f", step {view.step} of {len(view.steps)} ({view.steps[view.step - 1].text})")
    if view.ended_at is not None:
        text.append(f" after {span(view.ended_at - view.started_at)}")
    else:
        text.append(f", {span(time.time() - view.phase_since)}")
    return text


def line(view: RolloutView) -> str:
    """One line of a log about where a rollout stands."""
    return f"{headline(view).plain}: {view.reason}"


def status(view: RolloutView) -> RenderableType:
    """All of `accede status`: the headline, gates, validity, what comes next and which clock runs."""
    notes = Table.grid(padding=(0, 2))
    notes.add_column(style="dim", no_wrap=True)
    notes.add_column(overflow="fold")
    for name, words in _notes(view):
        notes.add_row(name, words)
    if not view.gates:
        return Group(headline(view), Text(), notes)
    verdicts = [gate.verdict for gate in view.gates]
    return Group(headline(view), Text(), gates(verdicts), Text(), notes)


def _notes(view: RolloutView) -> Iterable[tuple[str, Text]]:
    yield (
        "rollout",
        Text(f"{view.id}, policy {view.policy}, started by {view.started_by}, {moment(view.started_at)}"),
    )
    if view.hold is not None or not view.needs:  # else the reason is what it waits for, a second older
        yield "reason", Text(view.reason)
    if view.override is not None:
        yield "override", Text(view.override, "bold yellow")
    mirrored = f"{view.mirrored:.2%} is mirrored to it{_back(view)}"
    yield "traffic", Text(f"{view.weight:.2%} of users see the candidate, {mirrored}")
    yield (
        "this step",
        Text(f"{view.stable_requests} requests of stable, {view.candidate_requests} of the candidate"),
    )
    yield from _copies(view)
    for check in view.validity:
        yield check.check.replace("_", " "), _check(check)
    yield from drift_lines(view.drift)
    yield from calibration_lines(view.calibration)
    yield from blame_lines(view.blame)
    yield from advice_lines(view.advice)
    yield from status_lines(view)
    if view.phase.ended:
        return
    yield from _controllers(view.controllers)
    if view.hold is not None:
        left = span(view.hold.until - time.time())
        yield "clock", Text(f"{view.hold.action} in {left} unless this hold is resolved", "yellow")
    if view.needs:
        yield "waits for", Text("; ".join(view.needs))
    if view.next_step:
        yield "then", Text(view.next_step)
    for one in view.addresses:
        yield "address", Text(_address(one), "yellow")
    if view.admin_sockets:
        sockets = ", ".join(f"{name} at {path}" for name, path in view.admin_sockets.items())
        yield "abort --direct", Text(sockets, "dim")
    late = [name for name, generation in view.replicas.items() if generation < view.generation]
    if late:
        yield "routers", Text(f"not yet at the newest route: {', '.join(late)}", "yellow")


def _address(one: AddressView) -> str:
    """`version 43, 10.0.0.7:8501: not ready for 2 of 2 workers of router a`."""
    states = ((one.unready, "not ready for"), (one.ejected, "ejected by"))
    told = " and ".join(f"{state} {count} of {one.workers}" for count, state in states if count)
    return f"version {one.version}, {one.address}: {told} workers of router {one.router}"


def _copies(view: RolloutView) -> Iterable[tuple[str, Text]]:
    """What has become of mirrored requests, of each kind that there is."""
    kinds = (("mirror", view.mirror), ("mirror back", view.back), ("noise floor", view.floor))
    for name, counts in kinds:
        if counts is not None:
            yield name, Text(_mirror(counts))
    if view.warm_up is not None:
        told = f"{view.warm_up.warmed} copies not counted"
        held = f", {view.warm_up.held} requests answered by stable meanwhile" if view.warm_up.held else ""
        yield "warm-up", Text(told + held)


def _back(view: RolloutView) -> str:
    """What the candidate answers and stable is asked too, where it is."""
    return f", {view.mirrored_back:.2%} of its answers mirrored back to stable" if view.mirrored_back else ""


def _mirror(counts: MirrorCounts) -> str:
    dropped = {
        "too many in flight": counts.dropped_in_flight,
        "too many bytes": counts.dropped_bytes,
        "rate": counts.dropped_rate,
        "too large": counts.dropped_size,
        "no descriptor left": counts.unconnected,
        "lost": max(0, counts.lost - counts.unconnected),
        "answered by stable instead": counts.unpaired,
    }
    drops = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
    comparable = counts.chosen - counts.unpaired
    share = f"{counts.paired / comparable:.1%}" if comparable else "none"
    return f"{counts.chosen} chosen, {counts.paired} pairs ({share}); dropped: {drops or 'none'}"


def _check(check: Validity) -> Text:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in check.numbers.items())
    text = Text(check.outcome.value, _STYLES[check.outcome])
    if check.reason:
        text.append(f", {check.reason}", "default")
    if numbers:
        text.append(f" ({numbers})", "dim")
    return text


def gates(verdicts: Sequence[Verdict]) -> Comparisons:
    """Per gate and group the comparison that decides it. `proof`: how far towards being proven fine."""
    rows: list[Comparison] = []
    for verdict in sorted(verdicts, key=lambda verdict: (verdict.index, verdict.place)):
        name = f"{verdict.gate}, {verdict.place}"
        groups: dict[str, list[Finding]] = {}
        for finding in verdict.findings:
            groups.setdefault(finding.slice, []).append(finding)
        if not groups:
            rows.append(Comparison(name, ("",) * 7, _outcome(verdict.outcome), verdict.reason))
        for group, findings in groups.items():
            rows.append(_comparison(name, group, findings))
            name = ""
    columns = (
        "gate",
        "group",
        ">estimate",
        ">interval",
        ">margin",
        ">n stable",
        ">n cand.",
        ">proof",
        "verdict",
    )
    return Comparisons(columns, rows, in_heading=frozenset({_MARGIN}))


def _comparison(name: str, group: str, findings: list[Finding]) -> Comparison:
    """The row of a group: of its directions and bins the one that decides."""
    finding = min(findings, key=_urgency)
    proof = [one.progress for one in findings if one.progress is not None]
    known = finding.estimate is not None
    cells = (
        group,
        estimate_of(finding) if known else "",
        interval_of(finding) if known else "",
        margin_of(finding),
        f"{finding.n_stable:.0f}",
        f"{finding.n_candidate:.0f}",
        f"{min(proof):.0%}" if proof else "",
    )
    # A reason begins with what the heading says: `errors: no canary observations yet`.
    note = "" if known else finding.reason.partition(": ")[2] or finding.reason
    return Comparison(name, cells, _outcome(finding.outcome), note)


def _urgency(finding: Finding) -> tuple[int, float]:
    """Orders comparisons: the worst verdict first, among equals the one farthest from its proof."""
    return _WORST_FIRST.index(finding.outcome), 0.0 if finding.progress is None else finding.progress


def _outcome(outcome: Outcome) -> Text:
    return Text(outcome.value, _STYLES[outcome])


def explanation(explained: Explained) -> RenderableType:
    """All of `accede explain`: the sentence, every comparison, validity, and the other decisions."""
    found = explained.explanation
    title = (
        f"{found.rollout}, decision {found.number}: {found.act}"
        if found.number
        else f"{found.rollout}, undecided"
    )
    parts: list[Any] = [Text(f"{title}, {moment(found.at)}", "bold"), Text(found.sentence)]
    if found.override is not None:
        parts.append(Text(f"override: {found.override}", "bold yellow"))
    if found.rows:
        rows = [
            Comparison(
                f"{row.finding.cell}, {row.place}",
                (
                    row.estimate, row.interval, row.margin,
                    f"{row.finding.n_stable:.0f}", f"{row.finding.n_candidate:.0f}",
                ),
                _outcome(row.outcome),
                row.finding.method or row.finding.reason,
            )
            for row in found.rows
        ]  # fmt: skip
        columns = ("comparison", ">estimate", ">interval", ">margin", ">n stable", ">n cand.", "verdict")
        parts += [Text(), Comparisons(columns, rows)]
    if found.validity:
        checks = Table.grid(padding=(0, 2))
        for check in found.validity:
            checks.add_row(Text(check.check.replace("_", " "), "dim"), _check(check))
        parts += [Text(), checks]
    informing = [
        *drift_lines(found.drift),
        *calibration_lines(found.calibration),
        *blame_lines(found.blame),
        *advice_lines(found.advice),
        *explained_lines(found.approvals),
    ]
    if informing:
        information = Table.grid(padding=(0, 2))
        for name, words in informing:
            information.add_row(Text(name, "dim"), words)
        parts += [Text(), information]
    if explained.decisions:
        others = _table(">decision", "when", "act", "reason")
        for decision in explained.decisions:
            others.add_row(str(decision.number), moment(decision.at), decision.act, Text(decision.reason))
        parts += [Text(), others]
    return Group(*parts)


def services(found: Services) -> RenderableType:
    """All services with their newest rollout."""
    table = _table("service", "stable", "candidate", "phase", "step", ">users", "reason")
    for service in found.services:
        rollout = service.rollout
        stable = service.stable or "?"
        if service.stable_in_file not in (None, service.stable):
            stable += f" (file: {service.stable_in_file})"
        if rollout is None:
            table.add_row(service.name, stable, "", "", "", "", Text(service.problem or ""))
            continue
        phase = Text(phase_words(rollout.phase), _PHASES.get(rollout.phase, ""))
        table.add_row(
            service.name, stable, rollout.candidate, phase, rollout.step,
            f"{rollout.weight:.2%}", Text(service.problem or rollout.reason),
        )  # fmt: skip
    problems = [Text(problem, "red") for problem in found.problems]
    lines = [Text.assemble((f"{name}: ", "dim"), words) for name, words in _controllers(found.controllers)]
    return Group(table, *([Text()] if lines else ()), *lines, *problems)


def _controllers(found: Controllers | None) -> Iterable[tuple[str, Text]]:
    """Who decides and who stands by since when; None of an older controller, which does not say."""
    if found is None:
        return
    told = [
        f"{one.name} {'leads' if one.leads else 'stands by'}"
        + ("" if one.since is None else f" since {moment(one.since)}")
        for one in found.controllers
    ]
    warning = leaderless(found)
    if told:
        yield "controllers", Text("; ".join(told))
    if warning:
        yield "no leader", Text(warning, "bold yellow")


def trail(entries: Sequence[AuditEntry]) -> Table:
    """The audit trail."""
    table = _table("when", "rollout", "who", "act", "reason")
    for entry in entries:
        table.add_row(moment(entry.at), entry.rollout or "", entry.actor, entry.act, Text(entry.reason))
    return table


def _table(*columns: str) -> Table:
    """A table without lines; a column that begins with > is of numbers, one of words may break."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        name = column.lstrip(">")
        folds = name == "reason"
        table.add_column(
            name, justify="right" if name != column else "left", no_wrap=not folds, overflow="fold"
        )
    return table
