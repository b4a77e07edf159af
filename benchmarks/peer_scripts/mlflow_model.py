"""The model that ``with_spark_udf.py`` runs, in MLflow's form: models from code."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from tower import BATCH, Tower, working


class Embed(mlflow.pyfunc.PythonModel):
    """Paths to embeddings."""

    def load_context(self, context: Any) -> None:
        """Loads the bundle that was saved with the model."""
        self.tower = Tower(context.artifacts["bundle"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """A frame with ``uri`` to [rows, D] float32."""
        uris, found = model_input["uri"].tolist(), []
        for first in range(0, len(uris), BATCH):
            batch = uris[first : first + BATCH]
            with working((params or {})["times"], len(batch)):
                found.append(self.tower.embed_files(batch))
        return np.concatenate(found)


mlflow.models.set_model(Embed())
