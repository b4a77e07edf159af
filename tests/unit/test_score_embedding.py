"""Scores made from stored embeddings are those of tagging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.errors import BundleError, ModelError
from pipeline.models.bundle import read_bundle, write_with_taxonomy
from pipeline.models.serving import load_predictor
from pipeline.taxonomy import parse_taxonomy
from udfs.score_embedding import get_bundle, score_batches
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
    batches = [
        pd.Series(list(stored[:4])),
        pd.Series([], dtype=object),
        pd.Series(list(stored[4:])),
    ]

    told = list(score_batches(batches, bundle, score_floor=0.3))

    assert [len(series) for series in told] == [4, 0, 3]
    expected = [
        make_tags(row, OTHER.labels, least=np.float32(0.3)) for row in predictor.score(stored)
    ]
    assert [tags for series in told for tags in series] == expected


def test_an_embedding_of_another_model_is_refused(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    wrong = pd.Series([np.zeros(bundle.info.embedding_size + 1, dtype=np.float32)])
    with pytest.raises(ModelError, match="another size"):
        list(score_batches([wrong], bundle, score_floor=0.0))


def test_a_bundle_that_is_not_the_drivers_is_refused_and_read_once(tiny_bundle: Path) -> None:
    settings, _ = read_settings(
        ModelConfig(uri=str(tiny_bundle)), FetchConfig(), DecodeConfig(), score_floor=0.0
    )
    assert get_bundle(settings) is get_bundle(replace(settings))
    with pytest.raises(BundleError, match="not the driver's"):
        get_bundle(replace(settings, taxonomy_version="another"))
