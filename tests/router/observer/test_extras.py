"""Ranks, own metrics, stated uncertainty and explanations in the sums, against numbers computed by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from accede.router.facts import PAIR_SHADOW, Body, Ending, Pair
from accede.store.evidence import Evidence
from accede.store.measurement import Extraction, MeasurementPlan, RankTable, SlicePlan, ValuePlan
from tests.router.observer.test_fold import fact, fold, published, sums

EXTRACTION = Extraction(
    "p[*].y", "number", None, None, (SlicePlan("sex", "i[*].sex", ("f", "m")),),
    (ValuePlan("refused", "p[*].no"), ValuePlan("cost", "cost", "number", (0.0, 4.0))),
    "p[*].sd", "p[*].why",
)  # fmt: skip
PLAN = MeasurementPlan(
    "r", 3, "canary", EXTRACTION, 5.0, 10.0, limits=(0.0, 10.0),
    sliced_metrics={"metrics.refused": ("sex",)}, ranks=RankTable((5.0,), (0.25, 0.75)),
)  # fmt: skip


def answer(*parts: dict[str, Any], cost: float | None = 1.0) -> bytes:
    said = {"p": list(parts), **({} if cost is None else {"cost": cost})}
    return json.dumps(said).encode()


def asked(sexes: str) -> bytes:
    return json.dumps({"i": [{"sex": sex} for sex in sexes]}).encode()


def whole(**changes: Any) -> dict[str, Any]:
    return {"y": 8.0, "no": True, "sd": 1.0, **changes}


def exchanged(*bodies: bytes, sexes: str = "f", plan: MeasurementPlan = PLAN, **changes: Any) -> Evidence:
    folded = fold(plan)
    for body in bodies:
        one = fact(arm=1, **changes)
        folded.add(one, folded.read(one, Body(1, asked(sexes), body, "", "")))
    return published(folded)


def test_one_answer_tells_its_rank_and_what_stands_beside_it() -> None:
    evidence = exchanged(answer(whole()), answer(whole(y=2.0, no=False, sd={"low": 0, "high": 4}), cost=9))
    assert sums(evidence, "candidate", "rank") == (2, 1.0, 0.25**2 + 0.75**2)
    assert sums(evidence, "candidate", "metrics.refused") == (2, 1, 1)
    assert sums(evidence, "candidate", "metrics.refused", "sex=f") == (2, 1, 1)
    assert sums(evidence, "candidate", "metrics.cost") == (2, 1.25, 1 + 0.25**2)  # 9 counts as 4
    assert sums(evidence, "candidate", "uncertainty") == pytest.approx((2, 0.3, 0.05))
    assert sums(evidence, "candidate", "metrics.cost.missing") == (2, 0, 0)
    assert sums(evidence, "stable", "metrics.cost") is None


def test_what_an_answer_lacks_is_counted_and_has_no_y() -> None:
    evidence = exchanged(answer({"y": 8.0}, cost=None), answer(whole()))
    assert sums(evidence, "candidate", "metrics.refused") == (1, 1, 1)
    assert sums(evidence, "candidate", "metrics.refused.missing") == (2, 1, 1)
    assert sums(evidence, "candidate", "metrics.cost.missing") == (2, 1, 1)
    assert sums(evidence, "candidate", "uncertainty.missing") == (2, 1, 1)


def test_an_answer_that_nobody_can_read_lacks_everything() -> None:
    evidence = exchanged(b"no json", answer(whole()))
    assert sums(evidence, "candidate", "metrics.refused.missing") == (2, 1, 1)
    assert sums(evidence, "candidate", "metrics.refused") == (1, 1, 1)


@pytest.mark.parametrize("changes", [{"status": 500}, {"ending": Ending.TIMEOUT}, {"status": 404}])
def test_a_failure_or_a_refusal_says_nothing_about_them(changes: Any) -> None:
    evidence = exchanged(answer(whole()), **changes)
    assert sums(evidence, "candidate", "metrics.refused.missing") is None
    assert sums(evidence, "candidate", "metrics.refused") is None


def test_several_instances_are_one_request_with_their_mean() -> None:
    evidence = exchanged(answer(whole(), whole(y=2.0, no=0.5), whole(no=False)), sexes="fmm")
    assert sums(evidence, "candidate", "rank") == pytest.approx((1, 1.75 / 3, (1.75 / 3) ** 2))
    assert sums(evidence, "candidate", "metrics.refused") == (1, 0.5, 0.25)
    assert sums(evidence, "candidate", "metrics.refused", "sex=f") == (1, 1, 1)
    assert sums(evidence, "candidate", "metrics.refused", "sex=m") == (1, 0.25, 0.0625)
    part = exchanged(answer(whole(), {"y": 1.0}), sexes="fm")
    assert sums(part, "candidate", "metrics.refused.missing") == (1, 1, 1)
    assert sums(part, "candidate", "metrics.refused.missing", "sex=f") == (1, 0, 0)
    assert sums(part, "candidate", "metrics.refused.missing", "sex=m") == (1, 1, 1)


def test_sticky_sums_are_kept_by_unit() -> None:
    plan = msgspec.structs.replace(PLAN, sticky=True)
    evidence = exchanged(answer(whole()), plan=plan, unit=7)
    series = next(
        s for key, s in evidence.series.items() if key.metric == "metrics.refused" and not key.slice
    )
    assert [at for at, n in enumerate(series.n) if n] == [7]


def paired(stable: bytes, shadow: bytes, shadow_status: int = 200, sexes: str = "f") -> Evidence:
    folded = fold(msgspec.structs.replace(PLAN, stage="shadow"))
    pair = Pair(
        1, 0, 12.0, Ending.ANSWERED, 200, 0.1, Ending.ANSWERED, shadow_status, 0.1, False,
        asked(sexes), stable, shadow, "", "", "", PAIR_SHADOW,
    )  # fmt: skip
    folded.add_pair(pair, folded.read_pair(pair))
    return published(folded)


def test_pairs_are_compared_in_all_of_them() -> None:
    evidence = paired(answer(whole(), cost=1.0), answer(whole(y=2.0, no=False, sd=2.0), cost=3.0))
    assert sums(evidence, "pair", "rank") == (1, -0.5, 0.25)
    assert sums(evidence, "paired_stable", "rank") == (1, 0.75, 0.75**2)
    assert sums(evidence, "pair", "metrics.refused") == (1, -1, 1)
    assert sums(evidence, "pair", "metrics.refused", "sex=f") == (1, -1, 1)
    assert sums(evidence, "pair", "metrics.cost") == (1, 0.5, 0.25)
    assert sums(evidence, "pair", "uncertainty") == pytest.approx((1, 0.1, 0.01))


def test_what_only_stable_has_the_candidate_lacks() -> None:
    evidence = paired(answer(whole()), answer({"y": 8.0}, cost=None))
    assert sums(evidence, "pair", "metrics.refused") is None
    assert sums(evidence, "pair", "metrics.refused.missing") == (1, 1, 1)
    assert sums(evidence, "pair", "metrics.cost.missing") == (1, 1, 1)
    failed = paired(answer(whole()), answer(whole()), shadow_status=500)
    assert sums(failed, "pair", "metrics.refused.missing") == (1, 1, 1)
    neither = paired(answer({"y": 8.0}, cost=None), answer(whole()))
    assert sums(neither, "pair", "metrics.refused.missing") is None


def test_explanations_are_compared_where_stable_explained_itself() -> None:
    one, opposite = {"a": 3.0, "b": -2.0, "c": 1.0}, {"a": 0.1, "b": 0.2, "c": 0.3}
    same = paired(answer(whole(why=one)), answer(whole(why={"c": 10, "b": 20, "a": 30})))
    assert sums(same, "pair", "explanation") == (1, 1, 1)
    other = paired(answer(whole(why=one)), answer(whole(why=opposite)))
    assert sums(other, "pair", "explanation") == (1, 0, 0)
    several = paired(answer(whole(why=one), whole(why=one)), answer(whole(why=one)), sexes="ff")
    assert sums(several, "pair", "explanation") == (1, 0.5, 0.25)
    assert sums(paired(answer(whole(why=one)), answer(whole())), "pair", "explanation") == (1, 0, 0)
    assert sums(paired(answer(whole()), answer(whole(why=one))), "pair", "explanation") is None
    failed = paired(answer(whole(why=one)), answer(whole(why=one)), shadow_status=500)
    assert sums(failed, "pair", "explanation") == (1, 0, 0)
