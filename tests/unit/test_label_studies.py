"""What the studies of labels say of tables and thresholds whose worth is known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from drawn_catalogue import draw_catalogue
from label_noise import judge_table
from threshold_transfer import judge

from pipeline.config import CalibrationConfig
from pipeline.evaluation.scored import ScoredImages
from pipeline.evaluation.tables import LABEL_ERROR_SCHEMA
from pipeline.taxonomy import parse_taxonomy


def test_the_truth_of_a_drawn_catalogue_tells_moved_labels(tmp_path: Path) -> None:
    drawn = draw_catalogue(tmp_path, 40)
    moved = pq.read_table(drawn.moved).to_pylist()
    clean = pq.read_table(drawn.clean).to_pylist()
    different = [
        (set(row["labels"]) - set(true["labels"]), row["split"])
        for row, true in zip(moved, clean, strict=True)
    ]
    assert drawn.count_moved() == sum(len(labels) for labels, _ in different) > 0
    assert not any(labels for labels, split in different if split == "test")
    before = drawn.clean.stat().st_mtime_ns
    assert draw_catalogue(tmp_path, 40).truth == drawn.truth
    assert drawn.clean.stat().st_mtime_ns == before


def test_a_table_is_right_where_the_truth_says_otherwise_than_the_manifest(tmp_path: Path) -> None:
    told = [  # image, label, given, confident; right: yes, no, yes, no
        ("a", "pool", True, True),
        ("a", "bed", True, True),
        ("b", "bed", False, True),
        ("b", "pool", False, False),
    ]
    rows = [
        {"image_id": image, "label": label, "given": given, "confident": confident}
        | {"kind": "wrong" if given else "missing"}
        for image, label, given, confident in told
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=LABEL_ERROR_SCHEMA), tmp_path / "t.parquet")
    drawn: Any = SimpleNamespace(
        truth={"a": frozenset({"bed"}), "b": frozenset({"bed"})}, count_moved=lambda: 4
    )
    judged = judge_table(tmp_path / "t.parquet", drawn)
    assert judged["top_precision"] == pytest.approx(0.5)
    assert judged["first_quarter_precision"] == pytest.approx(1.0)
    assert judged["confident"] == {
        "wrong": {"rows": 2, "precision": 0.5},
        "missing": {"rows": 1, "precision": 1.0},
    }


def test_thresholds_are_judged_on_the_images_that_did_not_choose_them() -> None:
    generator = np.random.default_rng(0)
    targets = generator.random((800, 3)) < 0.3
    targets[:, 2] = np.arange(800) % 40 == 0  # too rare to be judged
    scores = np.where(targets, 0.8, 0.2).astype(np.float32)
    scores[400:, 1] = 0.1  # a label that falls silent
    images = ScoredImages(
        positions=np.arange(800),
        ids=tuple(map(str, range(800))),
        splits=np.array(["validation"] * 400 + ["test"] * 400),
        scores=scores,
        embeddings=np.zeros((800, 1), np.float32),
        targets=targets,
        known=np.ones_like(targets),
        left_out=Counter(),
    )
    task = {"id": "t", "kind": "multi_label", "labels": [{"id": "x"}, {"id": "y"}, {"id": "z"}]}
    bundle: Any = SimpleNamespace(taxonomy=parse_taxonomy({"tasks": [task]}))
    found = judge(images, images.splits == "validation", bundle, CalibrationConfig())
    assert found["labels"] == 2
    assert found["precision"] == pytest.approx(0.5)
    assert found["silent"] == 1
    assert found["recall"] == pytest.approx(0.5)
