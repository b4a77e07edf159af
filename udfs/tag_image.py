"""The tagging UDF: where an image is, in; what the model makes of it, out.

One row in, one row out, in order. No pixels go through Arrow: images are fetched, decoded and
tagged on the machine where the row is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyspark.sql import Column
from pyspark.sql.pandas.functions import pandas_udf

from pipeline.errors import ModelError
from pipeline.images.loader import ImageRequest, KnownImage
from pipeline.models.scoring import FloatArray
from pipeline.tables.schemas import KNOWN, OUTCOME
from pipeline.taxonomy import Label, Task, Taxonomy
from udfs.settings import TaggerSettings
from udfs.worker import get_engine

if TYPE_CHECKING:
    from pipeline.models.engine import Engine, Outcome

    GetEngine = Callable[[TaggerSettings], Engine]

TagImage = Callable[..., Column]


def make_tag_image(settings: TaggerSettings, *, engine_of: GetEngine = get_engine) -> TagImage:
    """The UDF over the columns image_id, uri, content and text; its struct is ``OUTCOME``.

    A fifth column, ``KNOWN`` or null, may tell what the same model made of the image before: as
    long as its bytes are those, it is neither decoded nor encoded.

    It is declared nondeterministic although it is not. Spark evaluates a deterministic UDF once in
    every place the plan mentions its result: a filter on ``outcome.reason`` would send every image
    through the model a second time. A nondeterministic one is neither moved nor doubled, so an
    image goes through the model once in a query, whatever is filtered and selected afterwards.
    (Another query over the same frame is another evaluation: write the result, read what was
    written.)

    Args:
        settings: From :func:`udfs.settings.read_settings`.
        engine_of: Where workers get their engine; tests put a fake here.
    """

    # Spark resolves these hints when the UDF is made: Iterator and pd must be module globals. It
    # takes no union; what is known comes as a frame all the same.
    @pandas_udf(OUTCOME)  # type: ignore[call-overload, untyped-decorator]
    def tag_image(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        engine = engine_of(settings)
        yield from tag_batches(batches, engine, score_floor=settings.score_floor)

    once: TagImage = tag_image.asNondeterministic()
    return once


def tag_batches(
    batches: Iterable[tuple[pd.Series | pd.DataFrame, ...]], engine: Engine, *, score_floor: float
) -> Iterator[pd.DataFrame]:
    """The body of the UDF.

    Args:
        batches: Series image_id, uri, content and text, of any lengths; and a frame of ``KNOWN``
            where something is known.
        engine: Looks ahead in the batches as far as it likes, and forms its own.
        score_floor: Scores below it are left out, 0 to 1.

    Yields:
        Frames with the columns of ``OUTCOME``, each as long as its batch.

    Raises:
        ModelError: The engine fails, or gives other rows than it was asked for.
    """
    taxonomy = engine.predictor.taxonomy
    requests = (_requests(batch) for batch in batches)
    for outcomes in run_batches(requests, engine):
        yield make_frame(outcomes, taxonomy, score_floor=score_floor)


def run_batches(
    batches: Iterable[Sequence[ImageRequest]], engine: Engine
) -> Iterator[list[Outcome]]:
    """Run batches of requests as one stream, and cut the outcomes into batches again.

    Raises:
        ModelError: The engine fails, or gives other rows than it was asked for.
    """
    asked: deque[list[str]] = deque()  # keys of the batches that are not answered yet

    def stream() -> Iterator[ImageRequest]:
        for batch in batches:
            asked.append([request.key for request in batch])
            yield from batch

    answered: list[Outcome] = []
    for outcome in engine.run(stream()):
        answered.append(outcome)
        while asked and len(answered) >= len(asked[0]):
            keys = asked.popleft()
            yield _answers_to(keys, answered[: len(keys)])
            del answered[: len(keys)]
    while asked:  # batches without rows, or an engine that left some out
        keys = asked.popleft()
        yield _answers_to(keys, answered[: len(keys)])
        del answered[: len(keys)]
    if answered:
        raise ModelError("the engine gave more outcomes than images", got=len(answered))


def make_frame(
    outcomes: Sequence[Outcome], taxonomy: Taxonomy, *, score_floor: float
) -> pd.DataFrame:
    """Outcomes as rows of ``OUTCOME``.

    Vectors become lists of Python floats: Spark would make them lists of NumPy scalars, which
    Arrow reads a third slower.

    Args:
        outcomes: Of any number of images.
        taxonomy: Names the scores.
        score_floor: Scores below it are left out, 0 to 1.
    """
    labels, floor = taxonomy.labels, np.float32(score_floor)
    failures = [outcome.failure for outcome in outcomes]
    columns: dict[str, list[Any]] = {
        "reason": [failure and failure.reason.value for failure in failures],
        "detail": [failure and failure.detail for failure in failures],
        "retriable": [failure and failure.retriable for failure in failures],
        "content_sha256": [outcome.content_sha256 for outcome in outcomes],
        "width": [outcome.width for outcome in outcomes],
        "height": [outcome.height for outcome in outcomes],
        "tags": [
            make_tags(outcome.scores, labels, least=floor, source=outcome.source or "image")
            for outcome in outcomes
        ],
        "modality_weights": [outcome.modality_weights for outcome in outcomes],
        "text_cut": [outcome.text_cut for outcome in outcomes],
        "embedding": [
            None if outcome.embedding is None else outcome.embedding.tolist()
            for outcome in outcomes
        ],
    }
    # object: pandas would make floats of whole numbers beside nulls
    return pd.DataFrame(columns, columns=OUTCOME.names, dtype=object)


def make_tags(
    scores: FloatArray | None,
    labels: Sequence[tuple[Task, Label]],
    *,
    least: Any,
    source: str = "image",
) -> list[dict[str, Any]] | None:
    """The tags of one image, best first; equal scores in the taxonomy's order.

    Args:
        scores: Of one image, [L] float32; None: it has none.
        labels: Names of the scores, L of them: ``Taxonomy.labels``.
        least: Lowest score that is kept: one number, or one of each label, [L] float32.
        source: What the scores were made from: image, text or both.

    Returns:
        None for an image without scores.
    """
    if scores is None:
        return None
    kept = np.flatnonzero(scores >= least)
    best_first = kept[np.argsort(-scores[kept], kind="stable")]
    names = [labels[index] for index in best_first.tolist()]
    return [
        {"task": task.id, "label": label.id, "score": score, "source": source}
        for (task, label), score in zip(names, scores[best_first].tolist(), strict=True)
    ]


def _requests(batch: tuple[pd.Series | pd.DataFrame, ...]) -> list[ImageRequest]:
    # where pandas put NaN for null, an image id or a path of NaN would be one
    columns: list[Iterable[Any]] = [
        column.astype(object).where(column.notna(), None)
        if isinstance(column, pd.Series)
        else _known_images(column)
        for column in batch
    ]
    return [ImageRequest(*row) for row in zip(*columns, strict=True)]


def _known_images(frame: pd.DataFrame) -> Iterator[KnownImage | None]:
    """A frame of ``KNOWN``, all null in the rows of which nothing is known."""
    for sha256, width, height, vector in zip(*(frame[name] for name in KNOWN.names), strict=True):
        if isinstance(sha256, str):
            yield KnownImage(sha256, int(width), int(height), np.asarray(vector, np.float32))
        else:
            yield None


def _answers_to(keys: list[str], outcomes: list[Outcome]) -> list[Outcome]:
    if [outcome.key for outcome in outcomes] != keys:
        raise ModelError(
            "the engine gave other outcomes than it was asked for",
            expected=f"{len(keys)} images, the first {keys[:1]}",
            got=f"{len(outcomes)} outcomes, the first {[one.key for one in outcomes[:1]]}",
        )
    return outcomes
