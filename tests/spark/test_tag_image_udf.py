"""The tagging UDF and the preflight inside Spark's workers."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.pandas.functions import pandas_udf

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.errors import BundleError, DeviceError, ModelError, PreflightError
from pipeline.images.loader import ImageRequest
from pipeline.spark import explain
from pipeline.tables.schemas import OUTCOME
from pipeline.taxonomy import parse_taxonomy
from udfs.preflight import read_versions, run_preflight
from udfs.settings import TaggerSettings, read_settings
from udfs.tag_image import TagImage, make_tag_image, tag_batches
from udfs.worker import get_engine, load_engine

# Workers cannot import this file: what it defines travels as code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SETTINGS = TaggerSettings(
    model=ModelConfig(uri="/bundle"), model_version="fake-1", taxonomy_version="t1"
)
COLUMNS = ("image_id", "uri", "content", "text")


class FakeEngine:
    """Tags every image alike and writes down which it saw."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        taxonomy = parse_taxonomy(
            {"tasks": [{"id": "scene", "kind": "multi_label", "labels": [{"id": "pool"}]}]}
        )
        self.predictor = SimpleNamespace(
            taxonomy=taxonomy, model_version="fake-1", taxonomy_version="t1", device="cpu"
        )

    def run(self, requests: Iterable[ImageRequest]) -> Iterator[Any]:
        for request in requests:
            write_down(self.folder, request.key)
            if request.key == "model-error":
                raise ModelError("NaN in the scores", where=request.key, todo="use fp32")
            yield SimpleNamespace(  # not Outcome: its module would load torch in every worker
                key=request.key,
                failure=None,
                content_sha256="ab",
                width=4,
                height=3,
                scores=np.array([0.75], np.float32),
                embedding=np.array([0.6, 0.8], np.float32),
                modality_weights=None,
                text_cut=None,
                source="image",
            )


def write_down(folder: str, line: str) -> None:
    """Append to this process's own file."""
    with Path(folder, str(os.getpid())).open("a") as stream:
        stream.write(f"{line}\n")


def written(folder: Path) -> list[str]:
    return sorted(line for path in folder.iterdir() for line in path.read_text().splitlines())


def fake_engine(settings: TaggerSettings, *, folder: str) -> Any:
    return FakeEngine(folder)


def on_cpu(device: str, addresses: Sequence[str]) -> str:
    return "cpu"


def make_images(spark: SparkSession, ids: list[str], partitions: int = 3) -> DataFrame:
    rows = [(one, f"/photos/{one}.jpg", None, None) for one in ids]
    schema = "image_id string, uri string, content binary, text string"
    return spark.createDataFrame(rows, schema).repartition(partitions)


def tag(images: DataFrame, tag_image: TagImage) -> DataFrame:
    outcome = tag_image(*(F.col(name) for name in COLUMNS))
    return images.select("image_id", outcome.alias("outcome"))


def filter_and_select(tagged: DataFrame) -> DataFrame:
    return tagged.where(F.col("outcome.reason").isNull()).select(
        "image_id", "outcome.tags", "outcome.embedding", F.size("outcome.tags").alias("n")
    )


def test_an_image_goes_through_the_model_once_whatever_is_filtered_afterwards(
    spark: SparkSession, tmp_path: Path
) -> None:
    ids = [f"{number:02}" for number in range(20)]
    tag_image = make_tag_image(SETTINGS, engine_of=partial(fake_engine, folder=str(tmp_path)))

    rows = filter_and_select(tag(make_images(spark, ids), tag_image)).collect()

    assert written(tmp_path) == ids
    assert {row.image_id for row in rows} == set(ids)
    assert rows[0].tags[0].asDict() == {
        "task": "scene",
        "label": "pool",
        "score": 0.75,
        "source": "image",
    }
    assert rows[0].embedding == pytest.approx([0.6, 0.8])


def test_a_udf_said_to_be_deterministic_would_tag_twice(
    spark: SparkSession, tmp_path: Path
) -> None:
    folder = str(tmp_path)

    @pandas_udf(OUTCOME)
    def deterministic(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        yield from tag_batches(batches, FakeEngine(folder), score_floor=0.0)  # type: ignore[arg-type]

    filter_and_select(tag(make_images(spark, ["a", "b"]), deterministic)).collect()

    assert written(tmp_path) == ["a", "a", "b", "b"]


def test_the_model_is_loaded_once_for_a_worker_process(spark: SparkSession, tmp_path: Path) -> None:
    loads, seen = tmp_path / "loads", tmp_path / "seen"
    loads.mkdir()
    seen.mkdir()

    def load(settings: TaggerSettings, device: str) -> Any:
        write_down(str(loads), str(os.getpid()))
        return FakeEngine(str(seen))

    settings = replace(SETTINGS, model=ModelConfig(uri=str(tmp_path)))  # known to no worker yet
    tag_image = make_tag_image(settings, engine_of=partial(get_engine, choose=on_cpu, load=load))
    images = make_images(spark, [f"{number:02}" for number in range(40)], partitions=8)

    for _ in range(2):
        tag(images, tag_image).agg(F.count("outcome.reason")).collect()

    workers = {path.name for path in seen.iterdir()}
    assert len(written(seen)) == 2 * 40
    assert written(loads) == sorted(workers)


def test_an_error_of_the_model_reaches_the_driver_as_itself(
    spark: SparkSession, tmp_path: Path
) -> None:
    tag_image = make_tag_image(SETTINGS, engine_of=partial(fake_engine, folder=str(tmp_path)))
    tagged = tag(make_images(spark, ["a", "model-error"]), tag_image)

    for action in (tagged.collect, tagged.write.format("noop").mode("overwrite").save):
        with pytest.raises(Exception, match="NaN in the scores") as caught:
            action()
        known = explain(caught.value)

        assert type(known) is ModelError
        assert str(known) == "NaN in the scores [model-error]; use fp32"


def test_other_errors_of_executors_are_not_explained_away(spark: SparkSession) -> None:
    @pandas_udf("long")
    def divide(numbers: pd.Series) -> pd.Series:
        return numbers.map(lambda number: 1 // number)

    with pytest.raises(Exception, match="ZeroDivisionError") as caught:
        spark.range(1).select(divide("id")).collect()

    assert explain(caught.value) is None


@pytest.fixture(scope="module")
def real_settings(
    tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> TaggerSettings:
    folder = tmp_path_factory.mktemp("model")
    bundle = tiny_models.make_bundle(folder)
    settings, _ = read_settings(
        ModelConfig(uri=str(bundle.path), batch_size=4), FetchConfig(), DecodeConfig()
    )
    return settings


def test_the_same_bytes_are_encoded_once_by_all_workers(
    spark: SparkSession, real_settings: TaggerSettings, tmp_path: Path
) -> None:
    random = np.random.default_rng(43)  # pictures no other test of this session has
    photos = [random.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(3)]
    rows = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        Image.fromarray(photos[number % 3]).save(path)
        rows.append((f"{number:02}", str(path), None, None))
    schema = "image_id string, uri string, content binary, text string"
    images = spark.createDataFrame(rows, schema).repartition(6)

    before = count_remembered(spark)
    found = tag(images, make_tag_image(real_settings)).orderBy("image_id").collect()

    assert count_remembered(spark) - before == 3
    for number, (_, outcome) in enumerate(found):
        first = found[number % 3].outcome
        assert (outcome.reason, outcome.width, outcome.height) == (None, 32, 24)
        assert outcome.content_sha256 == first.content_sha256
        assert outcome.embedding == pytest.approx(first.embedding, abs=1e-5)
        assert [one.label for one in outcome.tags] == [one.label for one in first.tags]
    assert len({outcome.content_sha256 for _, outcome in found}) == 3


def count_remembered(spark: SparkSession) -> int:
    """Results that the executor of this session keeps, of whichever models."""
    counts = [0]
    for path in Path(spark.conf.get("spark.local.dir")).glob("blockmgr-*/results-*.sqlite"):
        with sqlite3.connect(path) as file:
            counts += file.execute("SELECT count(*) FROM results").fetchone()
    return sum(counts)


def test_workers_say_what_the_model_says_without_spark(
    spark: SparkSession, real_settings: TaggerSettings, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    rows = []
    for number in range(21):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(random.integers(0, 256, (60, 90, 3), np.uint8)).save(path)
        rows.append((f"{number:02}", str(path), None, None))
    rows[5] = ("05", str(tmp_path / "missing.jpg"), None, None)
    rows[9] = ("09", None, (tmp_path / "9.jpg").read_bytes()[:300], None)
    schema = "image_id string, uri string, content binary, text string"
    images = spark.createDataFrame(rows, schema).repartition(2)

    found = tag(images, make_tag_image(real_settings)).orderBy("image_id").collect()

    engine = load_engine(real_settings, "cpu")
    expected = list(engine.run([ImageRequest(*row) for row in rows]))
    assert [row.image_id for row in found] == [one.key for one in expected]
    assert found[5].outcome.reason == "not_found"
    assert found[9].outcome.reason in ("truncated", "corrupt")
    names = [label.id for _, label in engine.predictor.taxonomy.labels]
    for row, one in zip(found, expected, strict=True):
        outcome = row.outcome
        assert outcome.content_sha256 == one.content_sha256
        if one.failure is not None:
            assert (outcome.reason, outcome.embedding) == (one.failure.reason, None)
            continue
        assert (outcome.reason, outcome.width, outcome.height) == (None, 90, 60)
        np.testing.assert_allclose(outcome.embedding, one.embedding, atol=1e-5)
        scores = [tag.score for tag in outcome.tags]
        assert scores == sorted(scores, reverse=True)
        by_label = {tag.label: tag.score for tag in outcome.tags}
        np.testing.assert_allclose([by_label[name] for name in names], one.scores, atol=1e-5)


def test_preflight_loads_the_model_in_every_slot(
    spark: SparkSession, real_settings: TaggerSettings
) -> None:
    slots = run_preflight(spark, real_settings)

    assert [slot.device for slot in slots] == ["cpu", "cpu"]


def test_preflight_names_what_differs_on_an_executor(spark: SparkSession, tmp_path: Path) -> None:
    def other_versions() -> dict[str, str]:
        return {**read_versions(), "torch": "1.0", "pillow": "missing"}

    with pytest.raises(PreflightError, match=r"got torch 1\.0, pillow missing") as caught:
        run_preflight(
            spark,
            SETTINGS,
            engine_of=partial(fake_engine, folder=str(tmp_path)),
            versions_of=other_versions,
        )

    assert "python" not in str(caught.value)


def test_preflight_finds_a_bundle_that_changed_under_the_driver(
    spark: SparkSession, real_settings: TaggerSettings
) -> None:
    other = replace(real_settings, model_version="mumic-of-the-driver")

    with pytest.raises(BundleError, match=r"is not the driver's.*expected model mumic-of-the-dr"):
        run_preflight(spark, other)


def no_gpu(settings: TaggerSettings) -> Any:
    raise DeviceError("a GPU was asked for and none can be used")


def no_memory(settings: TaggerSettings) -> Any:
    raise MemoryError("of 4 GB")


def no_torch(settings: TaggerSettings) -> Any:
    raise ModuleNotFoundError("No module named 'torch'")


@pytest.mark.parametrize(
    ("engine_of", "kind", "said"),
    [
        (no_gpu, DeviceError, r"a GPU was asked for and none can be used \(on "),
        (no_memory, PreflightError, "got MemoryError: of 4 GB"),
        (no_torch, PreflightError, "got ModuleNotFoundError: No module named 'torch'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_preflight_tells_why_a_model_cannot_be_loaded(
    spark: SparkSession, engine_of: Callable[[TaggerSettings], Any], kind: type, said: str
) -> None:
    with pytest.raises(kind, match=said):
        run_preflight(spark, SETTINGS, engine_of=engine_of)
