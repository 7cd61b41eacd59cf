"""The report: statistics.json, statistics.md and the plots. Nobody edits them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from . import naive
from .plots import plots
from .results import Measured
from .tables import (
    NAIVE,
    POOLED,
    compared_rows,
    delay_rows,
    found_words,
    ours_rows,
    percent,
    table,
    volume,
)

_INTRODUCTION = """# The statistics, measured

Written by `scripts/bench statistics` on {at}, in {seconds:.0f} s on one core of {cpu}; nobody edits it.
`scripts/bench statistics --quick` runs a tenth of it. Seeds stand in `benchmarks/statistics/`, so the same
figures come again. Brackets are 95% intervals (Clopper and Pearson).

How each method works, what it assumes and what breaks it: [statistics.md](../statistics.md).

## Ever wrong

**Harm**: share of runs in which equals were ever called unequal to the candidate's disadvantage. **Safe**:
share in which a candidate exactly at the margin was ever called within it. Both may be as high as the level,
plus three standard errors of the simulation (*allowed*), however often one looks.
"""
_TEXTBOOK = """
## Textbook tests in the same runs

Equals ever called unequal at 5%, looked at as often, restarted with every weight. The first column is the
worst of Accede's methods. t, Mann-Whitney and two proportions are one-sided, the others two-sided.
"""
_KAYENTA = """
Kayenta's way: one value of each arm a minute, Mann-Whitney with a 98% interval of the shift, whose lower end
has to exceed a quarter of the shift (`MannWhitneyClassifier` and `NetflixACAJudge` of spinnaker/kayenta; a
score made of several metrics is left out). It is careful where minutes are independent of each other; what
that costs is seen in the delays.

Pooling the arms over steps, while weight and traffic change together:
"""
_PAIRS = """
Pairs that are not independent, taken singly:
"""
_AT_MARGIN = """
A t-test of non-inferiority, of a candidate exactly at the margin:
"""
_MISUSED = """
Our own methods where the independence that they need is missing. The product does not use them there:
"""
_PEERS = """
Other procedures that may be watched, where what they assume holds (independent requests, one weight):
"""
_DELAYS = """
![False alarms](statistics-alarms.svg)

## How long until a harm is called

At 5%, one-sided. *Fixed* is the size at which one test, read once, has 80% power. *Found* is the share of
runs that called the harm by the end, *false* the share of runs of equals in which the same procedure called
one: a delay without it means nothing.
"""
_MEANING = """
mSPRT takes the variance as known and the sum as normal; P1 and P3 are exact for any outcomes in their range,
at every sample size, and pay for it where the range is many standard deviations wide: pairs that nearly
agree, for which the product takes P4 in batches. Used in one direction at twice the level mSPRT is the
asymptotic form of the same bound. A group-sequential design fixed for exactly the true effect is the fastest
of all, and ends without an answer in a fifth of the runs; fixed for all the time there is, it looks five
times. Where servers stall, what comes sooner than P4 is wrong about equals far more often than 5%: that is
what its delay buys.

![Delays](statistics-delays.svg)

## Intervals over time

The band is the interval that holds at every look; the dashed line is the truth.
"""


def write(measured: Measured, folder: Path) -> None:
    """statistics.json, statistics.md and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "statistics.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n"
    )
    for name, drawn in plots(measured).items():
        (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    (folder / "statistics.md").write_text(text(measured), encoding="utf-8")


def text(measured: Measured) -> str:
    """The page."""
    intervals = [f"![{name}]({name}.svg)\n" for name in plots(measured) if "interval" in name]
    end = ["## Volume", "", *volume(measured.folded, measured.sizes), ""]
    return "\n".join([*_alarms(measured), *_waits(measured), *intervals, *end])


def _alarms(measured: Measured) -> list[str]:
    rates = measured.rates
    peers = [r for r in rates if r.kind == "peer" and r.side == "harm"]
    misused = [r for r in rates if r.kind == "as if independent" and r.level == naive.LEVEL]
    safe = [r for r in rates if r.side == "safe" and r.kind == "naive"]
    paired = ("paired t", "sign test")
    return [
        _INTRODUCTION.format(at=measured.at, seconds=measured.seconds, cpu=measured.machine["cpu"]),
        *table(
            ["traffic", "method", "level", "harm", "safe", "allowed", "held", "runs"], ours_rows(rates)
        ), "",
        *(f"- **{name}**: {about}." for name, about in measured.scenes.items()),
        _TEXTBOOK, *table(["traffic", "Accede", *NAIVE], compared_rows(rates, NAIVE)),
        _KAYENTA, *table(["traffic", "Accede", *POOLED], compared_rows(rates, POOLED)),
        _PAIRS, *table(["traffic", "Accede", *paired], compared_rows(rates, paired)),
        _AT_MARGIN,
        *table(["traffic", "test", "ever called safe"], [[r.scene, r.method, percent(r)] for r in safe]),
        _MISUSED,
        *table(
            ["traffic", "method", "side", "ever wrong"],
            [[r.scene, r.method, r.side, percent(r)] for r in misused],
        ),
        _PEERS,
        *table(
            ["traffic", "method", "harm", "held"],
            [[r.scene, r.method, percent(r), "yes" if r.held else "**no**"] for r in peers],
        ),
    ]  # fmt: skip


def _waits(measured: Measured) -> list[str]:
    lines = [_DELAYS]
    for setting in dict.fromkeys(row.setting for row in measured.delays):
        here = [row for row in measured.delays if row.setting == setting]
        head = ["method", "", "median", "/ fixed", "90%", "found", "false"]
        fixed = f"Fixed: {here[0].fixed:.0f} {here[0].unit}. {here[0].runs} runs."
        lines += [f"### {setting}", "", fixed, "", *table(head, delay_rows(here)), ""]
    return [*lines, *found_words(measured.delays), _MEANING]


def terminal(measured: Measured) -> str:
    """Verdicts of our own rows, and the delays in a line each."""
    lines = [
        f"{'held  ' if r.held else 'BROKEN'}  {r.scene}: {r.method}, {r.side} at {r.level:g}: {percent(r)}"
        for r in measured.rates
        if r.kind == "ours"
    ]
    return "\n".join(lines + [line.replace("**", "") for line in found_words(measured.delays)])
