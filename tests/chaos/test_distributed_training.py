"""A training in two processes that Spark's own TorchDistributor starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from bright_halves import choose_held, draw_halves

from pipeline.config import (
    CheckpointConfig,
    DecodeConfig,
    DistributionConfig,
    LabelledManifestConfig,
    OptimizerConfig,
    TowersConfig,
    TrainModelConfig,
)
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.taxonomy import parse_taxonomy, write_taxonomy
from udfs.distributed_training import launch_training

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.chaos,
    # Two interpreters import torch, beside Spark.
    pytest.mark.timeout(900),
    # Spark never closes the pipe of the process it started.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
LABELS = [{"id": "pool"}, {"id": "bed"}]


def make_rows(count: int) -> list[dict[str, Any]]:
    """A bright left half is a pool, a bright right half a bed; the fourth cannot be read."""
    rows = []
    for index in range(count):
        labels = choose_held(index)
        rows.append(
            {
                "image_id": f"i{index}",
                "content": b"damaged" if index == 3 else draw_halves(labels, index),
                "labels": labels,
                "split": "validation" if index % 3 == 2 else "train",
            }
        )
    return rows


@pytest.fixture
def config(tmp_path: Path) -> TrainModelConfig:
    schema = pa.schema(
        {"image_id": pa.string(), "content": pa.binary(), "labels": pa.list_(pa.string())}
        | {"split": pa.string()}
    )
    pq.write_table(pa.Table.from_pylist(make_rows(30), schema=schema), tmp_path / "m.parquet")
    task = {"id": "scene", "kind": "multi_label", "labels": LABELS}
    write_taxonomy(parse_taxonomy({"tasks": [task]}), tmp_path / "taxonomy.yaml")
    (tmp_path / "vit.json").write_text(json.dumps(ARCHITECTURE))
    return TrainModelConfig(
        manifest=LabelledManifestConfig(path=str(tmp_path / "m.parquet")),
        taxonomy=str(tmp_path / "taxonomy.yaml"),
        bundle=str(tmp_path / "bundle"),
        towers=TowersConfig(architecture=str(tmp_path / "vit.json"), licence="CC0-1.0"),
        optimizer=OptimizerConfig(epochs=2, batch_size=4, learning_rate=1e-3),
        checkpoint=CheckpointConfig(folder=str(tmp_path / "checkpoint"), every_s=0.0),
        distribution=DistributionConfig(processes=2, place="driver"),
        decode=DecodeConfig(threads=1),
        device="cpu",
    )


def test_two_processes_of_spark_train_one_bundle(
    spark: SparkSession, config: TrainModelConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    from pipeline.models.bundle import read_bundle

    summary = launch_training(spark, config)

    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("epoch 2 of 2: loss") == 1  # one process tells
    assert summary["processes"] == 2
    assert (summary["images"], summary["validation_images"]) == (19, 10)
    assert summary["left_out"] == {"not_an_image": 1}
    assert summary["epochs"] == 2
    bundle = read_bundle(config.bundle)
    assert summary["tau"] == bundle.info.tau
    assert bundle.info.training is not None
    assert bundle.info.training["images"] == 19
    assert [path.name for path in (Path(config.bundle).parent / "checkpoint").iterdir()] in (
        [],
        [".lock"],
    )


def test_what_stops_the_processes_is_told_in_one_line(
    spark: SparkSession, config: TrainModelConfig
) -> None:
    manifest = replace(config.manifest, path=config.manifest.path + ".not")
    with pytest.raises(ManifestError, match=r"cannot be read .*m\.parquet\.not") as caught:
        launch_training(spark, replace(config, manifest=manifest))
    assert "\n" not in str(caught.value)


def test_gpus_that_are_not_there_are_a_configuration_error(
    spark: SparkSession, config: TrainModelConfig
) -> None:
    with pytest.raises(ConfigurationError, match="cannot start the processes"):
        launch_training(spark, replace(config, device="cuda"))
