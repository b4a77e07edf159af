"""What a run that nothing disturbed would have left in the tables, made without Spark."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo.verify import read_rows
from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.images.loader import ImageRequest
from pipeline.models.engine import Outcome
from pipeline.taxonomy import Taxonomy
from udfs.functions import publishable_tags
from udfs.settings import read_settings
from udfs.worker import load_engine

Undisturbed = tuple[dict[str, Outcome], Taxonomy]


def undisturbed_outcomes(manifest: Path, tiny_bundle: Path) -> Undisturbed:
    """What the model makes of every image of the manifest, in one go and without Spark."""
    settings, info = read_settings(
        ModelConfig(uri=str(tiny_bundle)), FetchConfig(attempts=1), DecodeConfig()
    )
    rows = pq.read_table(manifest).to_pylist()
    requests = [ImageRequest(row["image_id"], row["uri"], None, None) for row in rows]
    outcomes = load_engine(settings, "cpu").run(iter(requests))
    return {outcome.key: outcome for outcome in outcomes}, info.taxonomy


def assert_as_undisturbed(tables: Path, undisturbed: Undisturbed) -> None:
    outcomes, taxonomy = undisturbed
    images = {row["image_id"]: row for row in read_rows(tables, "images")}
    vectors = {row["image_id"]: row["embedding"] for row in read_rows(tables, "image_embeddings")}
    tags: dict[str, dict[tuple[str, str], float]] = {key: {} for key in outcomes}
    for row in read_rows(tables, "image_tags"):
        tags[row["image_id"]][row["task"], row["label"]] = row["score"]
    assert images.keys() == outcomes.keys()
    for key, outcome in outcomes.items():
        reason = outcome.failure and outcome.failure.reason.value
        assert (images[key]["reason"], images[key]["content_sha256"]) == (
            reason,
            outcome.content_sha256,
        )
        expected = publishable_tags(outcome, taxonomy.labels) or []
        assert tags[key] == {
            (tag["task"], tag["label"]): pytest.approx(tag["score"], abs=1e-5) for tag in expected
        }
        if outcome.embedding is None:
            assert key not in vectors
        else:
            assert vectors[key] == pytest.approx(outcome.embedding.tolist(), abs=1e-5)
