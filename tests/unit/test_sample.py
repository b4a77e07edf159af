"""The images two models are compared on, and how they are run on them."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_models import TAXONOMY, make_bundle

from pipeline.config import DecodeConfig, FetchConfig, InferenceConfig, SampleConfig
from pipeline.errors import ManifestError
from pipeline.evaluation.sample import read_sample
from pipeline.evaluation.trial import run_trial
from pipeline.images.loader import ImageLoader, ImageRequest
from pipeline.images.reasons import Reason
from pipeline.models.bundle import read_bundle, write_with_taxonomy
from pipeline.models.engine import Engine
from pipeline.models.serving import load_predictor
from pipeline.taxonomy import Taxonomy

LABELS = [label.id for _, label in TAXONOMY.labels]
CPU = InferenceConfig(device="cpu", batch_size=4)


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write(path: Path, rows: list[dict[str, Any]], **columns: Any) -> SampleConfig:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return SampleConfig(path=str(path), **columns)


ROWS = [
    {"image_id": f"{i}", "content": bytes([i]), "labels": ["pool"] if i % 2 else ["bed", "new"]}
    for i in range(200)
]


def test_texts_travel_with_their_images(tmp_path: Path) -> None:
    rows = [row | {"title": f"title {row['image_id']}"} for row in ROWS[:6]]
    named = read_sample(write(tmp_path / "a.parquet", rows, text="title"), LABELS)
    assert [one.text for one in named.requests()] == [f"title {key}" for key in named.rows]
    without = read_sample(write(tmp_path / "b.parquet", rows), LABELS)
    assert {one.text for one in without.requests()} == {None}
    with pytest.raises(ManifestError, match="wrong type"):
        read_sample(write(tmp_path / "c.parquet", rows, text="labels"), LABELS)


def test_the_same_images_are_chosen_in_whatever_order_they_stand(tmp_path: Path) -> None:
    config = write(tmp_path / "a.parquet", ROWS, images=20)
    chosen = read_sample(config, LABELS)
    assert len(chosen.rows) == 20
    grown = [*reversed(ROWS), *ROWS[:5]]
    again = read_sample(write(tmp_path / "b.parquet", grown, images=20), LABELS)
    assert set(again.rows) == set(chosen.rows)
    assert list(again.rows.values()) == sorted(again.rows.values())
    assert [one.key for one in again.requests()] == list(again.rows)
    assert all(one.content == bytes([int(one.key)]) for one in again.requests())


def test_labels_become_marks_of_the_labels_that_are_asked_for(tmp_path: Path) -> None:
    rows = [{**row, "unknown": ["sea_view", "pool"]} for row in ROWS[:4]]
    sample = read_sample(write(tmp_path / "a.parquet", rows), LABELS)
    keep = np.array([True, False, True, True])
    marks = sample.marks(["bed", "pool", "sea_view"], keep)
    assert marks is not None
    targets, known = marks
    assert targets.tolist() == [[True, False, False], [True, False, False], [False, False, False]]
    assert known.tolist() == [[True, False, False]] * 3
    plain = [{"image_id": row["image_id"], "content": row["content"]} for row in rows]
    assert read_sample(write(tmp_path / "b.parquet", plain), LABELS).marks(LABELS, keep) is None


def test_of_a_manifest_with_splits_one_is_taken(tmp_path: Path) -> None:
    rows = [{**row, "split": ("train", "test")[i % 4 == 0]} for i, row in enumerate(ROWS)]
    sample = read_sample(write(tmp_path / "a.parquet", rows), LABELS)
    assert len(sample.rows) == 50
    assert {int(key) % 4 for key in sample.rows} == {0}
    with pytest.raises(ManifestError, match="split = validation"):
        read_sample(replace(sample.config, use="validation"), LABELS)


@pytest.mark.parametrize(
    ("rows", "columns", "told"),
    [
        ([{"image_id": "1"}], {}, "neither a uri nor a content"),
        (ROWS[:2], {"labels": "truth"}, "no column truth for labels"),
        ([{**ROWS[0], "labels": "pool"}], {}, "array of strings"),
        ([{**ROWS[0], "image_id": None}, ROWS[1]], {}, r"no image_id .*got row 0"),
        ([{**ROWS[0], "labels": ["tree"]}], {}, "no image of the sample has a label"),
    ],
)
def test_samples_that_cannot_be_used_say_why(
    rows: list[dict[str, Any]], columns: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=told):
        read_sample(write(tmp_path / "a.parquet", rows, **columns), LABELS)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_sample(SampleConfig(path=str(tmp_path / "none.parquet")), LABELS)


def test_a_sample_that_changed_while_it_was_read_is_told(tmp_path: Path) -> None:
    sample = read_sample(write(tmp_path / "a.parquet", ROWS), LABELS)
    write(tmp_path / "a.parquet", ROWS[1:])
    with pytest.raises(ManifestError, match="changed"):
        list(sample.requests())
    write(tmp_path / "a.parquet", ROWS[:-1])
    with pytest.raises(ManifestError, match="changed"):
        list(sample.requests())


# --- trials


def test_models_score_as_they_do_alone_and_on_the_same_images(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    other = write_with_taxonomy(
        tmp_path / "other",
        bundle=bundle,
        taxonomy=Taxonomy(TAXONOMY.tasks[:1]),
    )
    (tmp_path / "found.png").write_bytes(picture(3))
    requests = [
        ImageRequest("0", None, picture(0)),
        ImageRequest("1", str(tmp_path / "gone.png"), None),
        ImageRequest("2", None, b"no picture"),
        ImageRequest("3", str(tmp_path / "found.png"), None),
        ImageRequest("4", None, None),
        *(ImageRequest(str(i), None, picture(i)) for i in range(5, 25)),
    ]
    made = run_trial(
        requests,
        [bundle, other],
        inference=CPU,
        fetch=FetchConfig(threads=2),
        decode=DecodeConfig(threads=1),
        total=len(requests),
    )
    assert np.flatnonzero(~made.keep).tolist() == [1, 2, 4]
    assert made.left_out == Counter(
        {Reason.NOT_FOUND: 1, Reason.NOT_AN_IMAGE: 1, Reason.NO_SOURCE: 1}
    )
    first, second = made.scores
    assert first.scores.shape == first.tags.shape == (22, 5)
    assert first.images_per_s > 0
    np.testing.assert_allclose(first.scores[:, :3], second.scores, atol=1e-6)
    predictor = load_predictor(
        read_bundle(bundle.path), device="cpu", precision="fp32", scaled_decoding=True
    )
    loader = ImageLoader(FetchConfig(), DecodeConfig(), predictor.preprocessing, True)
    alone = [one.scores for one in Engine(predictor, loader, 4).run(requests)]
    expected = np.stack([scores for scores in alone if scores is not None])
    np.testing.assert_allclose(first.scores, expected, atol=1e-5)


def test_a_sample_of_which_nothing_can_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not one image"):
        run_trial(
            [ImageRequest("1", None, b"no picture")],
            [make_bundle(tmp_path)],
            inference=CPU,
            fetch=FetchConfig(),
            decode=DecodeConfig(),
            total=1,
        )
