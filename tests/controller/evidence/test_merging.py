"""Evidence of several sources adds up the same however it is held; what has not changed is the same."""

from __future__ import annotations

import msgspec
import numpy as np

from accede.controller.evidence.columns import StoredSeries
from accede.controller.evidence.decoding import decode_evidence
from accede.controller.evidence.merging import Merges, merged
from accede.store.evidence import ArmCounts, Evidence, Series, SeriesKey, encode_evidence, merge
from accede.store.measurement import CLUSTERS


def part(source: str, epoch: int, seed: int, *, more: bool = False) -> Evidence:
    draw = np.random.default_rng(seed)
    n = draw.poisson(50.0, CLUSTERS).astype(float)
    y = draw.binomial(n.astype(int), 0.1).astype(float)
    series = {
        SeriesKey("stable", "", "errors"): Series(n.tolist(), y.tolist(), y.tolist()),
        SeriesKey("stable", "", "mean"): Series(
            [float(n.sum())], [0.4 * float(n.sum())], [0.2 * float(n.sum())]
        ),
    }
    if more:
        series[SeriesKey("candidate", "", "errors")] = Series(
            [3.0] * CLUSTERS, [0.0] * CLUSTERS, [0.0] * CLUSTERS
        )
    made = Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=epoch, source=source, published=float(seed),
        watermark=float(seed), series=series, arms={"stable": ArmCounts(accounted=int(n.sum()))},
        latency={"stable": {100: seed, 101: 2}}, open={"stable": 1},
    )  # fmt: skip
    return decode_evidence(encode_evidence(made))


def test_sums_are_those_of_merge() -> None:
    parts = [part("a", 1, 1), part("b", 1, 2), part("c", 1, 3), part("a", 2, 4), part("b", 2, 5, more=True)]
    found = merged(parts)
    assert list(found) == [1, 2]
    assert found[1] == merge(parts[:3])
    assert found[2] == merge(parts[3:])
    assert isinstance(found[1].series, StoredSeries)
    assert merged(parts[:1])[1] == merge(parts[:1])
    assert merged(()) == {}


def test_plain_evidence_adds_as_well() -> None:
    plain = [
        msgspec.structs.replace(one, series=dict(one.series)) for one in (part("a", 1, 1), part("b", 1, 2))
    ]
    assert merged(plain)[1] == merge(plain)
    assert merged([plain[0], part("b", 1, 2)])[1] == merge(plain)


def test_what_has_not_changed_is_not_added_again() -> None:
    merges = Merges(most=2)
    parts = [part("a", 1, 1), part("b", 1, 2), part("a", 2, 3)]
    first = merges.of("r", parts)
    again = merges.of("r", parts)
    assert again[1] is first[1]
    assert again[2] is first[2]
    later = merges.of("r", [*parts[:2], part("a", 2, 4)])
    assert later[1] is first[1]
    assert later[2] is not first[2]
    fewer = merges.of("r", parts[:1])
    assert fewer[1] == merged(parts[:1])[1]
    for name in ("x", "y"):
        merges.of(name, parts)
    assert merges.of("r", parts)[1] is not first[1]  # only the last two rollouts are remembered
