"""CMA-CLIP behind predictor and engine: texts of every kind, and rows that lack something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import _FakeLoader
from tiny_models import TAXONOMY, make_bundle, make_cma_bundle

from pipeline.errors import ModelError
from pipeline.images.loader import ImageRequest
from pipeline.models.bundle import Bundle
from pipeline.models.cma_bundle import load_cma_clip
from pipeline.models.engine import Engine, Outcome
from pipeline.models.predictor import Predictor
from pipeline.models.serving import load_predictor

LONG = " ".join(["a very long title"] * 9)
STRANGE = [None, "", " \n", "\x00", "a bed", LONG, "日本語 🏝️", "x" * 100_000, "a\x00b", "\ud800 x"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_cma_bundle(tmp_path_factory.mktemp("cma"))


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return load(bundle)


def load(bundle: Bundle, precision: Any = "fp32") -> Predictor:
    return load_predictor(bundle, device="cpu", precision=precision, scaled_decoding=True)


def make_pixels(rows: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)


def test_scores_are_those_of_the_model_on_normalised_pixels(
    bundle: Bundle, predictor: Predictor
) -> None:
    pixels, texts = make_pixels(2), ["a bed", "a pool"]
    model, preprocessing = load_cma_clip(bundle), bundle.preprocessing
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(one).view(1, 3, 1, 1) for one in (preprocessing.mean, preprocessing.std)
    )
    with torch.no_grad():
        expected = model((planes - mean) / std, bundle.load_tokenizer()(texts))
    found = predictor.predict(pixels, texts)
    scores = model.probabilities(expected).numpy()
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.embeddings, expected.image_embeddings, rtol=0, atol=1e-5)
    weights = [
        [row[t.id]["text"], row[t.id]["image"]]
        for row in found.modality_weights
        for t in TAXONOMY.tasks
    ]
    np.testing.assert_allclose(weights, expected.weights.flatten(0, 1), rtol=0, atol=1e-5)
    assert found.sources == ["both", "both"]


def test_any_text_gives_a_row_and_says_what_was_read(predictor: Predictor) -> None:
    found = predictor.predict(make_pixels(len(STRANGE)), STRANGE)
    assert np.isfinite(found.scores).all()
    image = [text is None or not text.strip("\x00 \n") for text in STRANGE]
    assert found.sources == ["image" if one else "both" for one in image]
    assert found.text_cut == [
        None if one else text in (LONG, "x" * 100_000)
        for one, text in zip(image, STRANGE, strict=True)
    ]
    for one, weights in zip(image, found.modality_weights, strict=True):
        assert set(weights) == {"scene", "room"}
        for shares in weights.values():
            assert (shares == {"text": 0.0, "image": 1.0}) == one
            assert sum(shares.values()) == pytest.approx(1)


def test_rows_do_not_depend_on_their_batch(predictor: Predictor) -> None:
    pixels = make_pixels(len(STRANGE))
    together = predictor.predict(pixels, STRANGE)
    for row, text in enumerate(STRANGE):
        alone = predictor.predict(pixels[row : row + 1], [text])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone.embeddings[0], together.embeddings[row], atol=1e-5)


def test_texts_alone_are_tagged_without_an_embedding(predictor: Predictor) -> None:
    found = predictor.predict(None, ["a bed", LONG])
    assert found.embeddings is None
    assert found.sources == ["text", "text"]
    assert found.text_cut == [False, True]
    assert found.modality_weights[0]["scene"] == {"text": 1.0, "image": 0.0}
    for texts in (["a bed", " "], [None], [], None):
        with pytest.raises(ModelError, match="neither an image nor a text"):
            predictor.predict(None, texts)


def test_models_of_one_modality_say_so(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "text").mkdir()
    image = load(make_cma_bundle(tmp_path / "image", modalities="image"))
    found = image.predict(make_pixels(2), ["a bed", None])
    assert found.sources == ["image", "image"]
    assert found.text_cut is None
    assert not image.reads_text
    with pytest.raises(ModelError):
        image.predict(None, ["a bed"])
    text = load(make_cma_bundle(tmp_path / "text", modalities="text"))
    found = text.predict(make_pixels(2), ["a bed", None])
    assert found.sources == ["text", "text"]
    assert found.modality_weights[1]["room"] == {"text": 1.0, "image": 0.0}
    assert found.embeddings.shape == (2, 32)


def test_mumic_reads_no_text_and_cannot_do_without_images(tmp_path: Path) -> None:
    mumic = load(make_bundle(tmp_path))
    assert not mumic.reads_text
    with pytest.raises(ModelError, match="images alone"):
        mumic.predict(None, ["a bed"])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_lower_precision_agrees_and_is_another_model_version(
    bundle: Bundle, predictor: Predictor, precision: str
) -> None:
    lower = load(bundle, precision)
    pixels, texts = make_pixels(3), ["a bed", None, LONG]
    ours, full = lower.predict(pixels, texts), predictor.predict(pixels, texts)
    assert ours.scores.dtype == ours.embeddings.dtype == np.float32
    np.testing.assert_allclose(ours.scores, full.scores, atol=0.03)
    assert lower.model_version != predictor.model_version
    cosines = (lower.embed_texts(["a pool"]) * predictor.embed_texts(["a pool"])).sum()
    assert cosines > 0.999


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_eight_bits_are_for_the_image_tower_alone(tmp_path: Path, kind: str) -> None:
    bundle = make_cma_bundle(tmp_path, kind)
    eight, full = load(bundle, "int8"), load(bundle)
    size = full.preprocessing.height
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    ours, theirs = (one.predict(pixels, ["a bed", None]) for one in (eight, full))
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.03)
    np.testing.assert_allclose(eight.embed_texts(["a"]), full.embed_texts(["a"]), atol=1e-6)


def test_there_is_no_zero_shot_score(predictor: Predictor) -> None:
    vectors = predictor.embed_texts(["a pool", "a bed"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with pytest.raises(ModelError, match="MuMIC bundle"):
        predictor.score_zero_shot(vectors, vectors)


def test_scores_that_are_no_numbers_stop_the_run(bundle: Bundle) -> None:
    broken = load(bundle)
    with torch.no_grad():
        broken._model.heads[1].mlp[2].bias[0] = torch.nan  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="not numbers"):
        broken.predict(make_pixels(1), ["a bed"])


def run(predictor: Predictor, texts: dict[str, str | None], *, alone: bool) -> list[Outcome]:
    requests = [ImageRequest(key=k, uri=k, content=None, text=t) for k, t in texts.items()]
    engine = Engine(predictor, _FakeLoader(), 3, tag_without_image=alone)
    return list(engine.run(requests))


ROWS = {
    "good 1": "a bed",
    "bad 1": "a pool",
    "bad 2": None,
    "good 2": None,
    "bad 3": "\x00",
    "good 3": LONG,
    "bad 4": LONG,
}


def test_an_unreadable_image_keeps_its_failure_and_is_tagged_by_its_text(
    predictor: Predictor,
) -> None:
    found = {one.key: one for one in run(predictor, ROWS, alone=True)}
    assert list(found) == list(ROWS)
    for key, outcome in found.items():
        assert (outcome.failure is None) == key.startswith("good")
        assert (outcome.embedding is None) == key.startswith("bad")
    sources = {key: outcome.source for key, outcome in found.items()}
    assert sources == {
        "good 1": "both",
        "bad 1": "text",
        "bad 2": None,
        "good 2": "image",
        "bad 3": None,
        "good 3": "both",
        "bad 4": "text",
    }
    expected = predictor.predict(None, ["a pool", LONG])
    np.testing.assert_allclose(found["bad 1"].scores, expected.scores[0], atol=1e-5)
    np.testing.assert_allclose(found["bad 4"].scores, expected.scores[1], atol=1e-5)
    assert found["bad 4"].text_cut
    assert found["bad 1"].modality_weights == {
        task: {"text": 1.0, "image": 0.0} for task in ("scene", "room")
    }


def test_without_being_asked_for_nothing_is_made_of_a_text_alone(predictor: Predictor) -> None:
    for outcome in run(predictor, ROWS, alone=False):
        assert (outcome.scores is None) == (outcome.failure is not None)


def test_mumic_makes_nothing_of_a_text_alone(tmp_path: Path) -> None:
    for outcome in run(load(make_bundle(tmp_path)), ROWS, alone=True):
        assert (outcome.scores is None) == (outcome.failure is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_agrees_with_the_cpu(bundle: Bundle, predictor: Predictor, precision: str) -> None:
    on_gpu = load_predictor(bundle, device="cuda:0", precision=precision, scaled_decoding=True)  # type: ignore[arg-type]
    pixels, expected = make_pixels(3), predictor.predict(make_pixels(3), ["a bed", None, LONG])
    waiting = [on_gpu.submit(pixels, ["a bed", None, LONG]) for _ in range(3)]
    tolerance = 1e-4 if precision == "fp32" else 3e-2
    for wait in waiting:
        np.testing.assert_allclose(wait().scores, expected.scores, atol=tolerance)
    np.testing.assert_allclose(
        on_gpu.predict(None, ["a bed"]).scores,
        predictor.predict(None, ["a bed"]).scores,
        atol=tolerance,
    )
