"""The demo's versions: gradient boosting on scikit-learn's diabetes data (442 patients, with age and sex).

The score is the probability that the disease progresses fast within a year (the upper 40 % of the data
set). A score of 0.5 and more selects a patient for closer care. The data set codes sex as 1 and 2 and
does not say which is which; neither do we.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...errors import UsageError

SELECTED_FROM = 0.5
SENSITIVE = "sex"
_SEX = 1  # its column
_EXTRA = {"sklearn": "scikit-learn", "httptools": "httptools"}  # module -> package
_UPPER = 60  # percentile of the progression from which a row is labelled as fast


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one version is made, and what its server does besides.

    `trees`: boosting rounds. `weight_of_2`: the weight in training of fast-progressing patients of sex 2.
    `offset`: added to every score. `lookup`: median seconds of the feature look-up before a prediction.
    `errors`: share of requests that end in HTTP 500.
    """

    title: str
    trees: int = 100
    weight_of_2: float = 1.0
    offset: float = 0.0
    lookup: float = 0.03
    errors: float = 0.002


STABLE = Recipe("100 trees")

CANDIDATES = {
    "good": Recipe("130 trees, else the same", trees=130),
    "biased": Recipe(
        "trained while most fast-progressing patients of sex 2 counted for half", trees=110, weight_of_2=0.6
    ),
    "slow": Recipe("130 trees, and its feature look-up takes twice as long", trees=130, lookup=0.06),
    "errors": Recipe("130 trees, and 6 % of its requests end in HTTP 500", trees=130, errors=0.06),
    "shifted": Recipe("130 trees, and every score comes out 0.1 higher", trees=130, offset=0.1),
}


@dataclass(frozen=True, slots=True)
class Data:
    """The rows. `features`: (442, 10) floats, `names` of the columns; `high`: (442,) 0 or 1."""

    features: Any
    names: tuple[str, ...]
    high: Any

    @property
    def sex(self) -> Any:
        """The protected attribute of each row, as text: (442,) of `1` or `2`."""
        return self.features[:, _SEX].astype(int).astype(str)


def require_extra() -> None:
    """Raises UsageError that says how to install what only the demo needs, where it is missing."""
    from importlib.util import find_spec

    missing = [name for module, name in _EXTRA.items() if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"the demo trains and serves real models and needs {' and '.join(missing)}; "
            "install it with the extra: pip install '.[demo]' in the checkout"
        )


def load_data() -> Data:
    """The data set, which comes with scikit-learn."""
    import numpy as np

    datasets: Any = import_module("sklearn.datasets")  # which ships no types
    bunch = datasets.load_diabetes(scaled=False)
    high = (bunch.target >= np.percentile(bunch.target, _UPPER)).astype(int)
    return Data(bunch.data, tuple(bunch.feature_names), high)


def train(recipe: Recipe, data: Data) -> Any:
    """A fitted classifier; the same recipe gives the same model."""
    import numpy as np

    ensemble: Any = import_module("sklearn.ensemble")
    weights = np.ones(len(data.high))
    weights[(data.sex == "2") & (data.high == 1)] = recipe.weight_of_2
    model = ensemble.GradientBoostingClassifier(
        n_estimators=recipe.trees, max_depth=2, learning_rate=0.05, random_state=0
    )
    return model.fit(data.features, data.high, sample_weight=weights)


def scores(recipe: Recipe, model: Any, features: Any) -> Any:
    """What the version answers for rows of `features`, (n, 10): scores in [0, 1], (n,)."""
    return (model.predict_proba(features)[:, 1] + recipe.offset).clip(0.0, 1.0)


def instances(data: Data) -> list[dict[str, float | str]]:
    """Each row as the JSON object that clients send."""
    return [
        {
            name: str(int(value)) if name == SENSITIVE else float(value)
            for name, value in zip(data.names, row, strict=True)
        }
        for row in data.features
    ]
