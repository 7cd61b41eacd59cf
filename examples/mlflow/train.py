"""Two versions of a small model for MLflow: `python train.py [FOLDER]`, then `mlflow models serve` each.

Progression of diabetes from age, sex, body mass index and blood pressure (scikit-learn's 442 patients).
v1 is a linear regression, v2 knows products of its columns too.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

# pyright: reportMissingImports=false
import mlflow.sklearn  # type: ignore[import-not-found,unused-ignore]
from mlflow.models import infer_signature  # type: ignore[import-not-found,unused-ignore]
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

COLUMNS = ["age", "sex", "bmi", "bp"]


def main() -> None:
    """Train both and save them as MLflow's models."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    patients: Any = load_diabetes(as_frame=True, scaled=False)
    rows = patients.data[COLUMNS].astype(float)
    models = {
        "v1": LinearRegression(),
        "v2": make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge(10.0)),
    }
    for version, model in models.items():
        shutil.rmtree(folder / version, ignore_errors=True)
        model.fit(rows, patients.target)
        # With a signature the server takes columns in any of its request formats.
        signature = infer_signature(rows, model.predict(rows))
        mlflow.sklearn.save_model(model, str(folder / version), signature=signature)


if __name__ == "__main__":
    main()
