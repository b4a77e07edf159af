"""The SQL functions, on a small real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.images.loader import ImageRequest
from pipeline.spark import explain
from udfs.functions import publishable_tags, register_functions
from udfs.settings import read_settings
from udfs.worker import load_engine

TEXT = "a rooftop bar at night"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("functions")


@pytest.fixture(scope="module")
def engine(spark: SparkSession, tiny_models: ModuleType, folder: Path) -> Iterator[Any]:
    """The model without Spark; with the functions and a view ``photos`` in the session."""
    model = ModelConfig(uri=str(tiny_models.make_bundle(folder).path))
    register_functions(spark, model, FetchConfig(), DecodeConfig())
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    uris = [str(folder / f"{number}.png") for number in range(4)]
    rows = [*enumerate(uris), (4, str(folder / "missing.png")), (5, None)]
    photos = spark.createDataFrame(rows, "id long, uri string").coalesce(1)  # few workers
    photos.createOrReplaceTempView("photos")
    settings, _ = read_settings(model, FetchConfig(), DecodeConfig())
    yield load_engine(settings, "cpu")
    spark.catalog.dropTempView("photos")


def one(spark: SparkSession, expression: str) -> Any:
    return spark.sql(f"SELECT {expression} AS value").first()["value"]


@pytest.mark.parametrize(
    ("a", "b", "cosine"),
    [
        ("array(1f, 0f)", "array(0f, 2f)", 0.0),
        ("array(1f, 2f)", "array(2f, 4f)", 1.0),
        ("array(1.0D, 2.0D)", "array(-1, -2)", -1.0),
        ("array(0f, 0f)", "array(1f, 1f)", None),
        ("NULL", "array(1f, 1f)", None),
    ],
)
def test_cosine_similarity_needs_no_model(
    spark: SparkSession, a: str, b: str, cosine: float | None
) -> None:
    register_functions(spark, None, FetchConfig(), DecodeConfig())

    found = one(spark, f"cosine_similarity({a}, {b})")

    assert found == (None if cosine is None else pytest.approx(cosine))


def test_vectors_of_unequal_length_are_refused(spark: SparkSession) -> None:
    register_functions(spark, None, FetchConfig(), DecodeConfig())

    with pytest.raises(PySparkException, match="VECTOR_DIMENSION_MISMATCH"):
        one(spark, "cosine_similarity(array(1f), array(1f, 2f))")


def test_embed_text_is_the_text_tower(spark: SparkSession, engine: Any) -> None:
    rows = spark.sql(
        f"SELECT embed_text(t) AS v FROM (SELECT /*+ COALESCE(1) */ t FROM"
        f" VALUES ('{TEXT}'), (NULL), ('a bed') AS x(t))"
    ).collect()

    expected = engine.predictor.embed_texts([TEXT, "a bed"])
    np.testing.assert_allclose([rows[0].v, rows[2].v], expected, atol=1e-5)
    assert rows[1].v is None


def test_images_are_tagged_and_embedded_in_sql(spark: SparkSession, engine: Any) -> None:
    photos = spark.table("photos").orderBy("id").collect()

    rows = spark.sql(
        "SELECT id, tag_image(uri) AS tags, embed_image(uri) AS embedding FROM photos"
    ).collect()

    by_id = {row.id: row for row in rows}
    labels = engine.predictor.taxonomy.labels
    for outcome in engine.run([ImageRequest(str(row.id), row.uri, None) for row in photos]):
        row = by_id[int(outcome.key)]
        if outcome.failure is not None:
            assert (row.tags, row.embedding) == (None, None)
            continue
        np.testing.assert_allclose(row.embedding, outcome.embedding, atol=1e-5)
        expected = publishable_tags(outcome, labels) or []
        assert [(tag.task, tag.label) for tag in row.tags] == [
            (tag["task"], tag["label"]) for tag in expected
        ]
    assert by_id[4].tags is None
    assert len(by_id) == 6


def test_tags_of_an_image_can_be_exploded_and_filtered(spark: SparkSession, engine: Any) -> None:
    rows = spark.sql(
        "SELECT id, tag.label, tag.score FROM photos"
        " LATERAL VIEW explode(tag_image(uri)) AS tag WHERE tag.score >= 0 AND id < 4"
    ).collect()

    assert {row.id for row in rows} <= {0, 1, 2, 3}
    assert rows


def test_zero_shot_score_of_a_stored_embedding_is_the_models(
    spark: SparkSession, engine: Any
) -> None:
    rows = spark.sql(
        f"WITH stored AS (SELECT id, embed_image(uri) AS e FROM photos)"
        f" SELECT id, zero_shot_score(e, '{TEXT}') AS score,"
        f" cosine_similarity(e, embed_text('{TEXT}')) AS cosine FROM stored ORDER BY id"
    ).collect()

    predictor = engine.predictor
    for row in rows[:4]:
        logit = row.cosine / predictor.tau + predictor.bias
        assert row.score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert [row.score for row in rows[4:]] == [None, None]


def test_images_like_a_text_can_be_ordered(spark: SparkSession, engine: Any) -> None:
    rows = spark.sql(
        "WITH stored AS (SELECT id, embed_image(uri) AS e FROM photos WHERE id < 4),"
        f" wanted AS (SELECT embed_text('{TEXT}') AS q)"
        " SELECT id, cosine_similarity(e, q) AS cosine FROM stored CROSS JOIN wanted"
        " WHERE zero_shot_score(e, 'a pool') >= 0 ORDER BY cosine DESC LIMIT 3"
    ).collect()

    cosines = [row.cosine for row in rows]
    assert len(rows) == 3
    assert cosines == sorted(cosines, reverse=True)


def test_an_embedding_of_another_model_is_one_clear_error(spark: SparkSession, engine: Any) -> None:
    with pytest.raises(PySparkException) as caught:
        one(spark, f"zero_shot_score(array(1f, 0f), '{TEXT}')")

    assert type(explain(caught.value)) is ModelError
