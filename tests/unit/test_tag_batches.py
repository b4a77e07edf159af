"""The body of the tagging UDF and of the SQL functions, without Spark and without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ModelError
from pipeline.images.loader import ImageRequest
from pipeline.images.reasons import Failure, Reason
from pipeline.models.engine import Outcome
from pipeline.models.scoring import score
from pipeline.tables.schemas import OUTCOME
from pipeline.taxonomy import parse_taxonomy
from udfs.functions import publishable_tags, score_pairs
from udfs.tag_image import tag_batches

TAXONOMY = parse_taxonomy(
    {
        "tasks": [
            {"id": "scene", "kind": "multi_label", "labels": [{"id": "pool"}, {"id": "bed"}]},
            {"id": "view", "kind": "multi_label", "labels": [{"id": "sea"}]},
        ]
    }
)

Batch = tuple[pd.Series, pd.Series, pd.Series, pd.Series]


def tagged(request: ImageRequest, scores: Sequence[float] = (0.2, 0.9, 0.5)) -> Outcome:
    return Outcome(
        request.key,
        content_sha256="ab",
        width=640,
        height=480,
        scores=np.array(scores, np.float32),
        embedding=np.array([0.6, 0.8], np.float32),
    )


class FakeEngine:
    """Answers in order; pulls ``ahead`` requests before its first answer, as prefetching does."""

    def __init__(self, answer: Callable[[ImageRequest], Outcome] = tagged, ahead: int = 1) -> None:
        self.predictor = SimpleNamespace(taxonomy=TAXONOMY)
        self.answer = answer
        self.ahead = ahead
        self.seen: list[ImageRequest] = []

    def run(self, requests: Iterable[ImageRequest]) -> Iterator[Outcome]:
        waiting: list[ImageRequest] = []
        for request in requests:
            self.seen.append(request)
            waiting.append(request)
            if len(waiting) >= self.ahead:
                yield self.answer(waiting.pop(0))
        yield from map(self.answer, waiting)


def make_batch(ids: Sequence[str]) -> Batch:
    return (
        pd.Series(ids, dtype=object),
        pd.Series([f"/photos/{one}.jpg" for one in ids], dtype=object),
        pd.Series([None] * len(ids), dtype=object),
        pd.Series([None] * len(ids), dtype=object),
    )


def run(engine: Any, *batches: Batch, floor: float = 0.01) -> list[pd.DataFrame]:
    return list(tag_batches(iter(batches), engine, score_floor=floor))


@given(sizes=st.lists(st.integers(0, 9), max_size=8), ahead=st.integers(1, 40))
def test_every_batch_comes_back_as_long_as_it_went_in_and_in_order(
    sizes: list[int], ahead: int
) -> None:
    batches = [make_batch([f"{n}-{i}" for i in range(size)]) for n, size in enumerate(sizes)]

    def named(request: ImageRequest) -> Outcome:
        return Outcome(request.key, Failure(Reason.NOT_FOUND, request.key))

    frames = run(FakeEngine(named, ahead), *batches)

    assert [list(frame["detail"]) for frame in frames] == [list(batch[0]) for batch in batches]


def test_a_batch_is_answered_before_later_ones_are_read_in_full() -> None:
    pulled = []

    def batches() -> Iterator[Batch]:
        for n in range(100):
            pulled.append(n)
            yield make_batch([f"{n}-{i}" for i in range(4)])

    next(tag_batches(batches(), FakeEngine(ahead=8), score_floor=0.0))  # type: ignore[arg-type]

    assert len(pulled) <= 4


def test_requests_carry_uri_content_and_text_and_nulls_are_none() -> None:
    engine = FakeEngine()
    batch = (
        pd.Series(["a", "b"]),
        pd.Series(["/x.jpg", float("nan")], dtype=object),
        pd.Series([None, b"\xff\xd8"], dtype=object),
        pd.Series([None, "a pool"], dtype=object),
    )

    run(engine, batch)

    assert engine.seen == [
        ImageRequest("a", "/x.jpg", None, None),
        ImageRequest("b", None, b"\xff\xd8", "a pool"),
    ]


def test_tags_reach_down_to_the_floor_best_first_with_ties_in_label_order() -> None:
    engine = FakeEngine(lambda request: tagged(request, scores=(0.5, 0.04, 0.5)))

    (frame,) = run(engine, make_batch(["a"]), floor=0.05)

    assert frame["tags"][0] == [
        {"task": "scene", "label": "pool", "score": 0.5, "source": "image"},
        {"task": "view", "label": "sea", "score": 0.5, "source": "image"},
    ]


def test_a_score_equal_to_the_floor_stays() -> None:
    floor = 0.01  # float32's 0.01 is less than float64's
    engine = FakeEngine(lambda request: tagged(request, scores=(floor, 0.0, 0.0)))

    (frame,) = run(engine, make_batch(["a"]), floor=floor)

    assert [tag["label"] for tag in frame["tags"][0]] == ["pool"]


def test_a_failure_has_a_reason_and_neither_tags_nor_embedding() -> None:
    failure = Failure(Reason.FETCH_TIMEOUT, "no answer")
    engine = FakeEngine(
        lambda request: (
            Outcome(request.key, failure, "cd") if request.key == "b" else tagged(request)
        )
    )

    (frame,) = run(engine, make_batch(["a", "b"]))

    assert frame.loc[1].to_dict() == {
        "reason": "fetch_timeout",
        "detail": "no answer",
        "retriable": True,
        "content_sha256": "cd",
        "width": None,
        "height": None,
        "tags": None,
        "modality_weights": None,
        "text_cut": None,
        "embedding": None,
    }
    assert frame.loc[0, ["reason", "retriable", "width"]].to_list() == [None, None, 640]
    assert frame.loc[0, "embedding"] == pytest.approx([0.6, 0.8])


def test_spark_can_read_every_column_also_where_all_rows_failed() -> None:
    from pyspark.sql.conversion import PandasToArrowConversion

    failing = FakeEngine(lambda request: Outcome(request.key, Failure(Reason.EMPTY, "empty")))
    for engine in (failing, FakeEngine()):
        (frame,) = run(engine, make_batch(["a", "b"]))

        rows = PandasToArrowConversion.convert(frame, OUTCOME, assign_cols_by_name=True)

        assert rows.num_rows == 2
        assert rows.schema.field("embedding").type == pa.list_(
            pa.field("element", pa.float32(), nullable=True)
        )


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(lambda keys: keys[:-1], id="too few"),
        pytest.param(lambda keys: [*keys, "more"], id="too many"),
        pytest.param(lambda keys: keys[::-1], id="another order"),
    ],
)
def test_an_engine_that_gives_other_rows_stops_the_run(
    answers: Callable[[list[str]], list[str]],
) -> None:
    class Wrong(FakeEngine):
        def run(self, requests: Iterable[ImageRequest]) -> Iterator[Outcome]:
            keys = answers([request.key for request in requests])
            return iter([tagged(ImageRequest(key, None, None)) for key in keys])

    with pytest.raises(ModelError):
        run(Wrong(), make_batch(["a", "b", "c"]))


def test_an_error_of_the_model_is_no_row() -> None:
    def broken(request: ImageRequest) -> Outcome:
        raise ModelError("NaN", where=request.key)

    with pytest.raises(ModelError, match=r"NaN \[a\]"):
        run(FakeEngine(broken), make_batch(["a"]))


def test_sql_gives_the_tags_a_run_would_publish() -> None:
    def task(name: str, kind: str, thresholds: dict[str, float]) -> dict[str, object]:
        labels = [{"id": label, "threshold": limit} for label, limit in thresholds.items()]
        return {"id": name, "kind": kind, "labels": labels}

    taxonomy = parse_taxonomy(
        {
            "tasks": [
                task("scene", "multi_label", {"pool": 0.5, "bed": 0.5, "sea": 0.7}),
                task("room", "single_label", {"single": 0.1, "double": 0.1}),
                task("view", "single_label", {"street": 0.9, "garden": 0.1}),
            ]
        }
    )
    scores = (0.6, 0.5, 0.65, 0.3, 0.4, 0.8, 0.7)
    outcome = tagged(ImageRequest("a", None, None), scores)

    tags = publishable_tags(outcome, taxonomy.labels)

    assert [tag["label"] for tag in tags or []] == ["pool", "bed", "double"]


class FakePredictor:
    """A text's embedding is 1 at the place of its length; counts the texts it embeds."""

    def __init__(self, version: str) -> None:
        self.model_version = version
        self.embedded: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.embedded += texts
        return np.eye(4, dtype=np.float32)[[len(text) for text in texts]]

    def score_zero_shot(self, embeddings: Any, texts: Any) -> Any:
        return score(embeddings, texts, 0.5, -1.0)


def sigmoid(x: float) -> float:
    return 1 / (1 + float(np.exp(-x)))


def test_zero_shot_scores_are_the_tempered_sigmoid_of_the_cosine() -> None:
    engine = SimpleNamespace(predictor=FakePredictor("scores"))
    stored = [[0.0, 0.6, 0.8, 0.0], [0.0, 0.6, 0.8, 0.0], None, [1.0, 0.0, 0.0, 0.0]]

    scores = score_pairs(engine, stored, ["b", "bb", "b", None])  # type: ignore[arg-type]

    assert scores[:2] == pytest.approx([sigmoid(0.6 / 0.5 - 1), sigmoid(0.8 / 0.5 - 1)], abs=1e-6)
    assert scores[2:] == [None, None]


def test_a_text_goes_through_the_text_tower_once() -> None:
    predictor = FakePredictor("once")
    engine = SimpleNamespace(predictor=predictor)
    stored = [[1.0, 0.0, 0.0, 0.0]] * 3

    for _ in range(2):
        score_pairs(engine, stored, ["a", "bb", "a"])  # type: ignore[arg-type]

    assert predictor.embedded == ["a", "bb"]


def test_an_embedding_of_another_model_is_refused_by_its_size() -> None:
    engine = SimpleNamespace(predictor=FakePredictor("size"))

    with pytest.raises(ModelError, match="expected 4; got 3"):
        score_pairs(engine, [[1.0, 0.0, 0.0]], ["a"])  # type: ignore[arg-type]
