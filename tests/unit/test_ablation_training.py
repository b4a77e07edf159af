"""The images and the single trainings of an ablation, on a handful of pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from loss_ablation.data import prepare_data
from loss_ablation.grid import make_grid
from loss_ablation.settings import Settings
from loss_ablation.training import FIGURES, Training, run_training
from PIL import Image
from tiny_models import ARCHITECTURES, TAXONOMY
from tiny_trainings import LABELS, draw
from trials.images import load_sets

from pipeline.errors import ManifestError
from pipeline.taxonomy import write_taxonomy

IDS = tuple(label.id for _, label in TAXONOMY.labels)
SPLITS = ("train",) * 24 + ("validation",) * 8 + ("test",) * 12
SCHEMA = pa.schema(
    {"image_id": pa.string(), "content": pa.binary()}
    | {"labels": pa.list_(pa.string()), "split": pa.string()}
)


def write_photos(path: Path, splits: Sequence[str]) -> None:
    targets = np.random.default_rng(1).random((len(splits), LABELS)) < 0.5
    rows = []
    for index, pixels in enumerate(draw(targets, 40, seed=2)):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        rows.append(
            {
                "image_id": str(index),
                "content": stream.getvalue() if index else b"damaged",
                "labels": [IDS[label] for label in np.flatnonzero(targets[index])],
                "split": splits[index],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_photos(tmp_path / "photos.parquet", SPLITS)
    write_taxonomy(TAXONOMY, tmp_path / "taxonomy.yaml")
    (tmp_path / "vit.json").write_text(json.dumps(ARCHITECTURES["vit"]))
    return Settings(
        manifest=str(tmp_path / "photos.parquet"),
        taxonomy=str(tmp_path / "taxonomy.yaml"),
        architecture=str(tmp_path / "vit.json"),
        pretrained=None,
        images=0,
        validation_share=0.0,
        test_share=0.0,
        max_side=0,
        taus=(0.07,),
        variants=(),
        screening_epochs=1,
        final_epochs=1,
        seeds=2,
        batch_size=8,
        learning_rate=1e-3,
        resamples=10,
    )


def run(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    variant = next(one for one in make_grid() if one.name == name)
    training = Training(stage="finals", variant=variant, seed=4, epochs=2)
    return run_training(training, settings, folder, "cpu")


def test_photos_are_read_once_and_shared(settings: Settings, tmp_path: Path) -> None:
    described = prepare_data(settings, tmp_path / "data", processes=1)
    assert described["images"] == {"train": 23, "validation": 8, "test": 12}
    assert described["left_out"] == {"not_an_image": 1}
    (tmp_path / "photos.parquet").unlink()
    assert prepare_data(settings, tmp_path / "data", processes=1) == described
    sets = load_sets(tmp_path / "data")
    assert {split: len(images.pixels) for split, images in sets.items()} == described["images"]
    assert sets["test"].targets.shape == (12, LABELS)
    assert sets["train"].pixels.shape[1] > sets["test"].pixels.shape[1] == 32


def test_photos_without_test_images_are_refused(settings: Settings, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos.parquet", SPLITS[:32])
    with pytest.raises(ManifestError, match="no test image"):
        prepare_data(settings, tmp_path / "data", processes=1)


@pytest.mark.parametrize(
    "name",
    ["tempered_sigmoid-learnt-prior-image", "linear_head-prior-neither", "softmax-0.07-both"],
)
def test_a_training_says_the_same_each_time(settings: Settings, tmp_path: Path, name: str) -> None:
    prepare_data(settings, tmp_path / "data", processes=1)
    first, second = (run(name, settings, tmp_path / "data") for _ in range(2))
    for told in (first, second):
        del told["seconds"], told["images_per_s"]
    assert first == second
    assert (first["stage"], first["variant"], first["seed"]) == ("finals", name, 4)
    assert set(first["test"]) == set(first["validation"]) == set(FIGURES)
    assert 0 < first["test"]["gap"]["value"] <= 1


def test_a_training_that_diverges_is_a_result(settings: Settings, tmp_path: Path) -> None:
    prepare_data(settings, tmp_path / "data", processes=1)
    wild = replace(settings, learning_rate=1e30)
    told = run("tempered_sigmoid-0.01-none-both", wild, tmp_path / "data")
    assert "diverged" in told["failed"]
    assert "test" not in told
