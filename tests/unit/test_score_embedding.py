"""Scores made from stored embeddings are those of tagging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.errors import BundleError, ModelError
from pipeline.models.bundle import read_bundle, write_with_taxonomy
from pipeline.models.serving import load_predictor
from pipeline.taxonomy import parse_taxonomy
from udfs.score_embedding import _make_tags, get_bundle, score_batches
from udfs.settings import read_settings
from udfs.tag_image import make_tags

OTHER = parse_taxonomy(
    {
        "tasks": [
            {"id": "mood", "kind": "multi_label", "labels": [{"id": "calm"}, {"id": "ключ 🛏️"}]},
        ]
    }
)


def embeddings(count: int, size: int) -> np.ndarray:
    rows = np.random.default_rng(3).normal(size=(count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_scores_made_again_equal_those_of_the_model_with_the_new_taxonomy(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = write_with_taxonomy(
        tmp_path / "other", bundle=read_bundle(tiny_bundle), taxonomy=OTHER
    )
    stored = embeddings(7, bundle.info.embedding_size)
    predictor = load_predictor(bundle, device="cpu", precision="fp32", scaled_decoding=True)
    # The second part of an array stands behind an offset.
    whole = pa.array(list(stored), pa.list_(pa.float32()))
    batches = [whole[:4], whole[:0], whole[4:]]

    told = list(score_batches(batches, bundle, score_floor=0.3))

    assert [len(tags) for tags in told] == [4, 0, 3]
    scores = predictor.score(stored)
    least = np.float32(np.median(scores))
    told = list(score_batches(batches, bundle, score_floor=float(least)))
    expected = [make_tags(row, OTHER.labels, least=least) for row in scores]
    assert [tags for array in told for tags in array.to_pylist()] == expected
    assert {len(tags) for tags in expected} > {1}


def test_an_embedding_of_another_model_is_refused(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    size = bundle.info.embedding_size
    for wrong, got in (([0.0] * (size + 1), size + 1), (None, 0), ([], 0)):
        batch = pa.array([[0.0] * size, wrong], pa.list_(pa.float32()))
        with pytest.raises(ModelError, match=f"another size.*got {got}"):
            list(score_batches([batch], bundle, score_floor=0.0))


def test_equal_scores_keep_the_order_of_the_taxonomy_and_none_may_be_left() -> None:
    scores = np.float32([[0.5, 0.9, 0.5, 0.9], [0.1, 0.1, 0.1, 0.1], [np.nan, 0.2, 0.3, 0.1]])
    tasks, labels = pa.array(["t", "t", "u", "u"]), pa.array(["a", "b", "c", "ключ 🛏️"])
    told = _make_tags(scores, tasks, labels, least=0.2).to_pylist()
    assert [[tag["label"] for tag in tags] for tags in told] == [
        ["b", "ключ 🛏️", "a", "c"],
        [],
        ["c", "b"],
    ]
    assert told[0][1] == {
        "task": "u",
        "label": "ключ 🛏️",
        "score": np.float32(0.9),
        "source": "image",
    }


def test_a_bundle_that_is_not_the_drivers_is_refused_and_read_once(tiny_bundle: Path) -> None:
    settings, _ = read_settings(
        ModelConfig(uri=str(tiny_bundle)), FetchConfig(), DecodeConfig(), score_floor=0.0
    )
    assert get_bundle(settings) is get_bundle(replace(settings))
    with pytest.raises(BundleError, match="not the driver's"):
        get_bundle(replace(settings, taxonomy_version="another"))
