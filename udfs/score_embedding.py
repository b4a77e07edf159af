"""The scoring UDF: a stored embedding in, its tags under the taxonomy in force out.

No image is fetched and no tower is loaded: scores are made from the embedding and the bundle's
label embeddings, by the formula that tagging ends in too. Arrow arrays in and out: a vector and its
tags as Python objects would take several times as long as the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from pyspark.sql import Column
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.pandas.types import to_arrow_type

from pipeline.errors import ModelError
from pipeline.models.scoring import FloatArray, score
from pipeline.tables.schemas import TAGS
from udfs.settings import TaggerSettings

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

    @arrow_udf(TAGS)  # type: ignore[call-overload, untyped-decorator]
    def score_embedding(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        bundle = bundle_of(settings)
        yield from score_batches(batches, bundle, score_floor=settings.score_floor)

    udf: ScoreEmbedding = score_embedding
    return udf


def score_batches(
    batches: Iterable[pa.Array], bundle: Bundle, *, score_floor: float
) -> Iterator[pa.ListArray]:
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
    labels, info = bundle.taxonomy.labels, bundle.info
    tasks = pa.array([task.id for task, _ in labels], pa.string())
    names = pa.array([label.id for _, label in labels], pa.string())
    for batch in batches:
        scores = score(_stack(batch, bundle), bundle.label_embeddings, info.tau, info.logit_bias)
        yield _make_tags(scores, tasks, names, least=score_floor)


def _stack(batch: pa.Array, bundle: Bundle) -> FloatArray:
    """Embeddings of a batch, [B, D] float32."""
    size = bundle.info.embedding_size
    lengths = batch.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    wrong = lengths[lengths != size]
    if wrong.size:
        raise ModelError(
            "a stored embedding is of another size than the model's",
            where=bundle.path,
            expected=size,
            got=int(wrong[0]),
        )
    values = np.asarray(batch.flatten(), np.float32)
    return values.reshape(-1, size)


def _make_tags(
    scores: FloatArray, tasks: pa.Array, labels: pa.Array, *, least: float
) -> pa.ListArray:
    """What :func:`udfs.tag_image.make_tags` makes of each row, for all of them.

    Args:
        scores: [B, L] float32.
        tasks: Task of each label, L of them.
        labels: Id of each label, L of them.
        least: Lowest score that is kept.
    """
    kept = scores >= np.float32(least)
    rows, columns = np.nonzero(kept)
    best_first = np.lexsort((-scores[kept], rows))
    columns = columns[best_first]
    ends = np.cumsum(np.count_nonzero(kept, axis=1), dtype=np.int32)
    places = pa.array(columns)
    tags = {
        "task": tasks.take(places),
        "label": labels.take(places),
        "score": pa.array(scores[rows, columns], pa.float32()),
        "source": pa.repeat("image", len(places)),
    }
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), ends]))
    structs = pa.StructArray.from_arrays([*tags.values()], names=[*tags])
    return pa.ListArray.from_arrays(offsets, structs).cast(to_arrow_type(TAGS))
