"""Saves a bundle as the MLflow model that ``with_spark_udf.py`` runs; done once, not timed."""

from __future__ import annotations

import argparse
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

HERE = Path(__file__).parent


def main() -> None:
    """Bundle in, model out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--model", required=True)
    asked = parser.parse_args()
    mlflow.pyfunc.save_model(
        asked.model,
        python_model=str(HERE / "mlflow_model.py"),
        artifacts={"bundle": asked.bundle},
        code_paths=[str(HERE / "tower.py")],
        signature=ModelSignature(
            inputs=Schema([ColSpec("string", "uri")]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
            params=ParamSchema([ParamSpec("times", "string", ".")]),
        ),
        pip_requirements=[],
    )


if __name__ == "__main__":
    main()
