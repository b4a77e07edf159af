"""A bundle as a Python model of MLflow: pictures in, tags out, wherever MLflow serves models.

MLflow's "models from code": ``register_model`` copies this file beside the bundle, and
``mlflow.pyfunc.load_model`` runs it. The product itself never does: it reads the bundle.

In: a DataFrame with ``content`` (the file's bytes), ``uri``, or both; bytes come first; and
``text``, for models that read texts too. A uri is
read only where ``allowed_roots`` or ``allowed_hosts`` of the model's configuration name its place,
because whoever can ask a server would else read what the server can.
Out: a DataFrame with a row for each picture: ``tags`` (task, label, score; best first; as a run
publishes them), and for a picture without a result ``reason`` and ``detail``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.loader import ImageLoader, ImageRequest
from pipeline.models.bundle import read_bundle
from pipeline.models.device import choose_device
from pipeline.models.engine import Engine, Outcome
from pipeline.models.serving import load_predictor
from pipeline.models.tags import mark_tags
from pipeline.taxonomy import Taxonomy

# No picture lies there; no root at all would mean any file.
_NOWHERE = "/dev/null"


class TaggingModel(PythonModel):
    """Loads the bundle among its artifacts, and tags with it."""

    def load_context(self, context: Any) -> None:
        """Load the model.

        Args:
            context: ``artifacts["bundle"]`` is the bundle's folder; ``model_config`` has device,
                precision, scaled_decoding, batch_size, allowed_roots and allowed_hosts.

        Raises:
            BundleError: A file of it is missing or was changed.
        """
        settings = context.model_config
        predictor = load_predictor(
            read_bundle(context.artifacts["bundle"]),
            device=choose_device(settings["device"], ()),
            precision=settings["precision"],
            scaled_decoding=settings["scaled_decoding"],
        )
        loader = ImageLoader(
            FetchConfig(
                allowed_roots=tuple(settings["allowed_roots"]) or (_NOWHERE,),
                allowed_hosts=tuple(settings["allowed_hosts"]),
            ),
            DecodeConfig(),
            predictor.preprocessing,
            settings["scaled_decoding"],
        )
        self._engine = Engine(predictor, loader, settings["batch_size"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Tag pictures.

        Args:
            context: Not read.
            model_input: Columns ``content`` and ``uri``, or one of them; ``text`` if there is one.
            params: None are known.
        """
        del context, params
        taxonomy = self._engine.predictor.taxonomy
        rows = [_describe(one, taxonomy) for one in self._engine.run(_requests(model_input))]
        return pd.DataFrame(rows, columns=["tags", "reason", "detail"], index=model_input.index)


def _requests(pictures: pd.DataFrame) -> Iterator[ImageRequest]:
    missing = [None] * len(pictures)
    contents = pictures.get("content", missing)
    uris = pictures.get("uri", missing)
    texts = pictures.get("text", missing)
    for place, (content, uri, text) in enumerate(zip(contents, uris, texts, strict=True)):
        yield ImageRequest(
            key=str(place),
            uri=uri if isinstance(uri, str) and uri else None,
            content=bytes(content) if isinstance(content, bytes | bytearray) else None,
            text=text if isinstance(text, str) else None,
        )


def _describe(outcome: Outcome, taxonomy: Taxonomy) -> dict[str, Any]:
    failure, scores = outcome.failure, outcome.scores
    if failure is not None or scores is None:
        reason = None if failure is None else str(failure.reason)
        return {"tags": [], "reason": reason, "detail": failure.detail if failure else None}
    labels = taxonomy.labels
    marked = np.flatnonzero(mark_tags(scores[None], taxonomy)[0])
    return {
        "tags": [
            {
                "task": labels[index][0].id,
                "label": labels[index][1].id,
                "score": float(scores[index]),
            }
            for index in marked[np.argsort(-scores[marked], kind="stable")]
        ],
        "reason": None,
        "detail": None,
    }


set_model(TaggingModel())
