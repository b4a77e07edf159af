"""The scoring UDF: a stored embedding in, its tags under the taxonomy in force out.

No image is fetched and no tower is loaded: scores are made from the embedding and the bundle's
label embeddings, by the formula that tagging ends in too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pyspark.sql import Column
from pyspark.sql.pandas.functions import pandas_udf

from pipeline.errors import ModelError
from pipeline.models.scoring import FloatArray, score
from pipeline.tables.schemas import TAGS
from udfs.settings import TaggerSettings
from udfs.tag_image import make_tags

if TYPE_CHECKING:
    from pipeline.models.bundle import Bundle

    BundleOf = Callable[[TaggerSettings], Bundle]

ScoreEmbedding = Callable[[Column], Column]

_bundles: dict[TaggerSettings, Bundle] = {}


def get_bundle(settings: TaggerSettings) -> Bundle:
    """The bundle, verified and read once in a worker process.

    Raises:
        BundleError: It is missing, changed, or not the driver's.
    """
    from pipeline.models.bundle import read_bundle  # noqa: PLC0415  (torch: on executors only)
    from pipeline.models.bundle_info import model_version  # noqa: PLC0415
    from pipeline.models.locate import locate_bundle  # noqa: PLC0415
    from udfs.worker import validate_versions  # noqa: PLC0415

    if settings not in _bundles:
        model = settings.model
        bundle = read_bundle(locate_bundle(model.uri, model.cache_dir))
        version = model_version(
            bundle.info, precision=model.precision, scaled_decoding=model.scaled_decoding
        )
        validate_versions(settings, version, bundle.taxonomy.version)
        _bundles.clear()
        _bundles[settings] = bundle
    return _bundles[settings]


def make_score_embedding(
    settings: TaggerSettings, *, bundle_of: BundleOf = get_bundle
) -> ScoreEmbedding:
    """The UDF over the column embedding; it gives tags as ``OUTCOME`` has them.

    Args:
        settings: From :func:`udfs.settings.read_settings`.
        bundle_of: Where workers get the bundle; tests put a fake here.
    """

    @pandas_udf(TAGS)  # type: ignore[call-overload, untyped-decorator]
    def score_embedding(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        bundle = bundle_of(settings)
        yield from score_batches(batches, bundle, score_floor=settings.score_floor)

    udf: ScoreEmbedding = score_embedding
    return udf


def score_batches(
    batches: Iterable[pd.Series], bundle: Bundle, *, score_floor: float
) -> Iterator[pd.Series]:
    """The body of the UDF.

    Args:
        batches: Embeddings, [D] float32 each, of any number.
        bundle: Label embeddings, temperature and bias.
        score_floor: Scores below it are left out, 0 to 1.

    Yields:
        Tags of each embedding, best first.

    Raises:
        ModelError: An embedding is of another size than the model's.
    """
    labels, floor = bundle.taxonomy.labels, np.float32(score_floor)
    info = bundle.info
    for batch in batches:
        if batch.empty:
            yield pd.Series([], dtype=object)
            continue
        scores = score(_stack(batch, bundle), bundle.label_embeddings, info.tau, info.logit_bias)
        yield pd.Series([make_tags(row, labels, least=floor) for row in scores], dtype=object)


def _stack(batch: pd.Series, bundle: Bundle) -> FloatArray:
    """Embeddings of a batch, [B, D] float32."""
    size = bundle.info.embedding_size
    wrong = next((len(vector) for vector in batch if len(vector) != size), None)
    if wrong is not None:
        raise ModelError(
            "a stored embedding is of another size than the model's",
            where=bundle.path,
            expected=size,
            got=wrong,
        )
    return np.stack([np.asarray(vector, dtype=np.float32) for vector in batch])
