"""A check as JUnit XML: one testcase per gate and group, in the shape that CI servers read.

testsuites > testsuite(name, tests, failures, errors, skipped, time) > testcase(classname, name, time) with at
most one of failure, error, skipped. What is inconclusive is a failure of that type: it does not pass.
"""

from __future__ import annotations

from html import escape
from typing import Final

from ...store.rollouts import Outcome
from .outcome import GateOutcome, Outcomes
from .shown import counted, deciding, headline

_NOT_XML: Final = frozenset(map(chr, (*range(0xD800, 0xE000), 0xFFFE, 0xFFFF)))


def text(found: Outcomes) -> str:
    """The whole document."""
    cases = [case for gate in found.gates for case in _cases(found, gate)]
    cases.append(_case(found, "check", _element(*_overall(found))))
    total = {kind: sum(f"<{kind} " in case for case in cases) for kind in ("failure", "error", "skipped")}
    counts = (
        f'tests="{len(cases)}" failures="{total["failure"]}" errors="{total["error"]}" '
        f'skipped="{total["skipped"]}" time="{found.seconds:.3f}"'
    )
    name = _text(f"accede check {found.service}")
    body = "\n".join(cases)
    told = _text(f"{headline(found)}\n{counted(found)}\n{found.reason}")
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="{name}" {counts}>\n'
        f'<testsuite name="{name}" {counts}>\n{body}\n<system-out>{told}</system-out>\n'
        "</testsuite>\n</testsuites>\n"
    )


def _overall(found: Outcomes) -> tuple[str, str, str]:
    """What the gates alone do not show: a check that was ended, evidence that cannot be trusted."""
    if found.exit_code in {0, 3}:
        return "", "", ""
    kind = "failure" if found.verdict == "inconclusive" else "error"
    return kind, found.verdict, found.reason


def _cases(found: Outcomes, gate: GateOutcome) -> list[str]:
    if not gate.decided:
        return [_case(found, gate.gate, _element("skipped", "", f"not decided: {gate.reason}"))]
    findings = deciding(gate)
    if not findings:
        return [_case(found, gate.gate, _judgement(gate.outcome, gate.reason, gate.require))]
    return [
        _case(
            found, f"{gate.gate} {f'[{one.slice}]' if one.slice else ''}".strip(),
            _judgement(one.outcome, one.reason, gate.require),
        )
        for one in findings
    ]  # fmt: skip


def _judgement(outcome: Outcome, reason: str, require: str) -> str:
    if outcome is Outcome.PASS:
        return ""
    if require == "nothing" or (require == "no-harm" and outcome is Outcome.INCONCLUSIVE):
        return _element("skipped", "", f"only shown: {reason}" if require == "nothing" else reason)
    kind = "error" if outcome is Outcome.ERROR else "failure"
    return _element(kind, outcome.value, reason)


def _element(kind: str, type_: str, message: str) -> str:
    if not kind:
        return ""
    typed = f' type="{type_}"' if type_ else ""
    return f'<{kind} message="{_text(message)}"{typed}></{kind}>'


def _case(found: Outcomes, name: str, inside: str) -> str:
    where = f"{found.service}.{found.policy}"
    return f'<testcase classname="{_text(where)}" name="{_text(name)}" time="0">{inside}</testcase>'


def _text(value: str) -> str:
    """Escaped, without the characters that XML 1.0 does not have."""
    return escape("".join(c for c in value if c in "\t\n" or (c >= " " and c not in _NOT_XML)))
