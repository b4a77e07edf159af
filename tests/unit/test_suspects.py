"""Labels that a training leaves out since they are probably wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from pipeline.config import LabelledManifestConfig, SuspectsConfig
from pipeline.errors import ManifestError
from pipeline.evaluation.label_errors import LabelError
from pipeline.evaluation.scored import ScoredImages
from pipeline.evaluation.tables import write_label_errors
from pipeline.taxonomy import parse_taxonomy
from pipeline.training.data import LabelledImages
from pipeline.training.suspects import leave_out_suspects

TAXONOMY = parse_taxonomy(
    {
        "tasks": [
            {"id": "scene", "kind": "multi_label", "labels": [{"id": "bed"}, {"id": "pool"}]},
            {"id": "view", "kind": "multi_label", "labels": [{"id": "sea"}]},
        ]
    }
)
IDS = ("a", "b", "c")
SPLITS = np.array(["train", "validation", "test"])
TARGETS = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0]], bool)


def make_images() -> LabelledImages:
    return LabelledImages(
        config=LabelledManifestConfig(path="m"),
        columns={},
        ids=IDS,
        splits=SPLITS,
        targets=TARGETS,
        known=np.ones_like(TARGETS),
        texts=(None, None, None),
        rows=np.arange(3),
        left_out=Counter(),
    )


def write_table(path: Path, *errors: tuple[int, int, bool, bool]) -> SuspectsConfig:
    """As an evaluation does; errors are image, label, given, confident."""
    scored = ScoredImages(
        positions=np.arange(3),
        ids=IDS,
        splits=SPLITS,
        scores=np.zeros((3, 3), np.float32),
        embeddings=np.zeros((3, 2), np.float32),
        targets=TARGETS,
        known=np.ones_like(TARGETS),
        left_out=Counter(),
    )
    found = [
        LabelError(image=image, label=label, given=given, score=0.5, confident=confident)
        for image, label, given, confident in errors
    ]
    write_label_errors(path, found, scored, TAXONOMY)
    return SuspectsConfig(table=str(path))


def test_what_the_table_is_confident_about_is_not_known(tmp_path: Path) -> None:
    config = write_table(
        tmp_path / "t.parquet", (0, 2, True, True), (1, 2, False, True), (0, 0, True, False)
    )
    images = leave_out_suspects(make_images(), TAXONOMY, config)
    assert images.known.tolist() == [[True, True, False], [True, True, False], [True, True, True]]
    assert images.targets.tolist() == [[True, False, False], [True, True, False], [1, 0, 0]]


def test_test_images_and_labels_that_somebody_corrected_stay(tmp_path: Path) -> None:
    config = write_table(
        tmp_path / "t.parquet", (2, 0, True, True), (0, 1, True, True), (0, 0, True, True)
    )
    known = leave_out_suspects(make_images(), TAXONOMY, config).known
    assert np.argwhere(~known).tolist() == [[0, 0]]


@pytest.mark.parametrize(("kinds", "left"), [(("wrong",), [[0, 0]]), (("missing",), [[0, 1]])])
def test_kinds_can_be_chosen(tmp_path: Path, kinds: tuple[Any, ...], left: list[list[int]]) -> None:
    table = write_table(tmp_path / "t.parquet", (0, 0, True, True), (0, 1, False, True)).table
    chosen = SuspectsConfig(table=table, kinds=kinds)
    known = leave_out_suspects(make_images(), TAXONOMY, chosen).known
    assert np.argwhere(~known).tolist() == left


def test_without_a_table_nothing_changes() -> None:
    images = make_images()
    assert leave_out_suspects(images, TAXONOMY, SuspectsConfig()) is images


def test_a_table_of_another_manifest_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_table(tmp_path / "t.parquet", (2, 0, True, True))
    leave_out_suspects(make_images(), TAXONOMY, config)
    assert "no label of" in caplog.text


@pytest.mark.parametrize("content", [None, b"damaged", "other columns"])
def test_what_is_no_table_of_label_errors_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "t.parquet"
    if content == "other columns":
        pq.write_table(pa.table({"image_id": ["a"]}), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match="table of label errors"):
        leave_out_suspects(make_images(), TAXONOMY, SuspectsConfig(table=str(path)))
