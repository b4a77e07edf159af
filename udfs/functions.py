"""The model as SQL functions.

=====================================  ==========================================================
``tag_image(uri)``                     array<struct<task, label, score>>, scores from the labels'
                                       thresholds up, best first; null where the image cannot be had
                                       (of CMA-CLIP, what it says of the image without a text)
``embed_image(uri)``                   array<float>, length 1; null where the image cannot be had
``embed_text(text)``                   array<float>, length 1
``zero_shot_score(embedding, text)``   float, 0 to 1: the tempered sigmoid of a stored embedding
                                       against any text; MuMIC's alone
``cosine_similarity(a, b)``            float, -1 to 1; needs no model
=====================================  ==========================================================

Compare embeddings of one model_version only.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.images.loader import ImageRequest
from pipeline.tables.schemas import EMBEDDING
from udfs.settings import TaggerSettings, read_settings
from udfs.tag_image import make_tags, run_batches
from udfs.worker import get_engine

if TYPE_CHECKING:
    from pipeline.models.engine import Engine, Outcome
    from pipeline.taxonomy import Label, Task

    GetEngine = Callable[[TaggerSettings], Engine]

TAGS_OF_IMAGE = ArrayType(
    StructType(
        [
            StructField("task", StringType()),
            StructField("label", StringType()),
            StructField("score", FloatType()),
        ]
    )
)

COSINE_SIMILARITY = """
CREATE OR REPLACE TEMPORARY FUNCTION cosine_similarity(a ARRAY<FLOAT>, b ARRAY<FLOAT>)
RETURNS FLOAT
COMMENT 'Cosine of the angle between two vectors: -1 to 1, null where one of them is zero'
RETURN vector_cosine_similarity(a, b)
"""

MODEL_FUNCTIONS = ("tag_image", "embed_image", "embed_text", "zero_shot_score")

_MAX_CACHED_TEXTS = 10_000  # 20 MB at 512 floats


def register_functions(
    spark: SparkSession, model: ModelConfig | None, fetch: FetchConfig, decode: DecodeConfig
) -> None:
    """Register the SQL functions in a session.

    Args:
        spark: The session.
        model: None: only ``cosine_similarity``.
        fetch: How ``tag_image`` and ``embed_image`` fetch.
        decode: How they decode.

    Raises:
        BundleError: The bundle is missing, changed, or not one.
    """
    spark.sql(COSINE_SIMILARITY)
    if model is not None:
        settings, _ = read_settings(model, fetch, decode)
        for name, function in make_functions(settings).items():
            spark.udf.register(name, function)


def uses_model(sql: str) -> bool:
    """Whether a statement mentions a function that needs the model."""
    return any(re.search(rf"\b{name}\b", sql, re.IGNORECASE) for name in MODEL_FUNCTIONS)


def make_functions(
    settings: TaggerSettings, *, engine_of: GetEngine = get_engine
) -> dict[str, Any]:
    """The functions that need the model, by name.

    Those over images are declared nondeterministic for the reason that
    :func:`udfs.tag_image.make_tag_image` gives.

    Args:
        settings: From :func:`udfs.settings.read_settings`.
        engine_of: Where workers get their engine; tests put a fake here.
    """

    @pandas_udf(TAGS_OF_IMAGE)  # type: ignore[call-overload, untyped-decorator]
    def tag_image(uris: Iterator[pd.Series]) -> Iterator[pd.Series]:
        engine = engine_of(settings)
        labels = engine.predictor.taxonomy.labels
        for outcomes in run_batches(map(_requests, uris), engine):
            tags = [publishable_tags(outcome, labels) for outcome in outcomes]
            yield pd.Series(tags, dtype=object)

    @pandas_udf(EMBEDDING)  # type: ignore[call-overload, untyped-decorator]
    def embed_image(uris: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for outcomes in run_batches(map(_requests, uris), engine_of(settings)):
            vectors = [outcome.embedding for outcome in outcomes]
            yield pd.Series([None if v is None else v.tolist() for v in vectors], dtype=object)

    @pandas_udf(EMBEDDING)  # type: ignore[call-overload, untyped-decorator]
    def embed_text(texts: Iterator[pd.Series]) -> Iterator[pd.Series]:
        engine = engine_of(settings)
        for batch in texts:
            vectors = embed_distinct(engine, [text for text in batch if isinstance(text, str)])
            lists = {text: vector.tolist() for text, vector in vectors.items()}
            yield pd.Series([lists.get(text) for text in batch], dtype=object)

    @pandas_udf(FloatType())  # type: ignore[call-overload, untyped-decorator]
    def zero_shot_score(pairs: Iterator[tuple[pd.Series, pd.Series]]) -> Iterator[pd.Series]:
        engine = engine_of(settings)
        for embeddings, texts in pairs:
            yield pd.Series(score_pairs(engine, list(embeddings), list(texts)), dtype=object)

    return {
        "tag_image": tag_image.asNondeterministic(),
        "embed_image": embed_image.asNondeterministic(),
        "embed_text": embed_text,
        "zero_shot_score": zero_shot_score,
    }


def publishable_tags(
    outcome: Outcome, labels: Sequence[tuple[Task, Label]]
) -> list[dict[str, Any]] | None:
    """The tags a run would publish: from the labels' thresholds up, of a single_label task one.

    Args:
        outcome: Of one image.
        labels: Names of the scores: ``Taxonomy.labels``.

    Returns:
        Best first; None for an image without scores.
    """
    scored = make_tags(outcome.scores, labels, least=0.0)
    if scored is None:
        return None
    about = {(task.id, label.id): (task.kind, label.threshold) for task, label in labels}
    answered: set[str] = set()  # single_label tasks whose best label was seen
    tags = []
    for tag in scored:
        kind, threshold = about[tag["task"], tag["label"]]
        if tag["task"] not in answered and tag["score"] >= float(np.float32(threshold)):
            tags.append(tag)
        if kind == "single_label":
            answered.add(tag["task"])
    return tags


def score_pairs(
    engine: Engine, embeddings: Sequence[Any], texts: Sequence[str | None]
) -> list[float | None]:
    """Scores of stored embeddings, each against its own text; null where one of them is null.

    Args:
        engine: Knows the text tower, the temperature and the bias.
        embeddings: [D] each, float32, of length 1; or None.
        texts: As many.

    Raises:
        ModelError: Embeddings are not of this model's size, or it has no zero-shot scores.
    """
    predictor = engine.predictor
    rows_of: dict[str, list[int]] = {}
    for row, (embedding, text) in enumerate(zip(embeddings, texts, strict=True)):
        if embedding is not None and isinstance(text, str):
            rows_of.setdefault(text, []).append(row)
    scores: list[float | None] = [None] * len(texts)
    for text, vector in embed_distinct(engine, list(rows_of)).items():
        rows = rows_of[text]
        stored = [np.asarray(embeddings[row], np.float32) for row in rows]
        wrong = next((len(one) for one in stored if one.shape != vector.shape), None)
        if wrong is not None:
            raise ModelError(
                "an embedding is of another size than the model's",
                where=f"zero_shot_score, {predictor.model_version}",
                expected=len(vector),
                got=wrong,
                todo="use the model that made the embedding: see its model_version",
            )
        found = predictor.score_zero_shot(np.stack(stored), vector[None])[:, 0]
        for row, value in zip(rows, found.tolist(), strict=True):
            scores[row] = value
    return scores


# By model_version and text; the oldest go first.
_texts: OrderedDict[tuple[str, str], npt.NDArray[np.float32]] = OrderedDict()


def embed_distinct(engine: Engine, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Embeddings, [D] float32, by text; each text goes through the text tower once in a process."""
    predictor = engine.predictor
    version = predictor.model_version
    distinct = list(dict.fromkeys(texts))
    vectors = {text: _texts[version, text] for text in distinct if (version, text) in _texts}
    new = [text for text in distinct if text not in vectors]
    if new:
        made = dict(zip(new, predictor.embed_texts(new), strict=True))
        vectors |= made
        _texts.update({(version, text): vector for text, vector in made.items()})
        while len(_texts) > _MAX_CACHED_TEXTS:
            _texts.popitem(last=False)
    return vectors


def _requests(uris: pd.Series) -> list[ImageRequest]:
    return [
        ImageRequest(key=str(row), uri=uri if isinstance(uri, str) else None, content=None)
        for row, uri in enumerate(uris)
    ]
