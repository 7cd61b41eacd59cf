"""Two versions of a small model for MLServer: `python train.py [FOLDER]`, then `mlserver start FOLDER`.

Progression of diabetes from age, sex, body mass index and blood pressure (scikit-learn's 442 patients).
Version 1 is a linear regression, version 2 knows products of its columns too; one server holds both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

COLUMNS = ["age", "sex", "bmi", "bp"]


def main() -> None:
    """Train both and write them as MLServer's models."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    patients: Any = load_diabetes(as_frame=True, scaled=False)
    rows = patients.data[COLUMNS].astype(float)
    models = {
        "1": LinearRegression(),
        "2": make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge(10.0)),
    }
    for version, model in models.items():
        place = folder / version
        place.mkdir(parents=True, exist_ok=True)
        joblib.dump(model.fit(rows, patients.target), place / "model.joblib")
        settings = {
            "name": "progression",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib", "version": version},
        }
        (place / "model-settings.json").write_text(json.dumps(settings, indent=2))
    # In the process of the server, which keeps it small, and off the port of the router.
    (folder / "settings.json").write_text(
        json.dumps({"parallel_workers": 0, "http_port": 8081, "grpc_port": 8082}, indent=2)
    )


if __name__ == "__main__":
    main()
