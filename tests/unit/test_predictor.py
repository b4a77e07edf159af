"""The predictor against open_clip's own preprocessing, image tower and zero-shot classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tiny_models import TAXONOMY, make_bundle, make_towers

from pipeline.errors import ModelError
from pipeline.images.preprocess import make_pixels
from pipeline.models.bundle import Bundle
from pipeline.models.mumic import MuMIC
from pipeline.models.mumic_predictor import MumicPredictor
from pipeline.models.predictor import Predictor
from pipeline.models.scoring import score
from pipeline.models.serving import load_predictor


@pytest.fixture(scope="module", params=["vit", "resnet", "siglip"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return load_predictor(bundle, device="cpu", precision="fp32", scaled_decoding=True)


def make_photos(n: int = 5) -> list[Image.Image]:
    """Pictures of several sizes with large shapes, so that they are unlike each other."""
    random = np.random.default_rng(0)
    photos = []
    for i in range(n):
        coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        photos.append(Image.fromarray(coarse).resize((60 + 30 * i, 130 - 10 * i)))
    return photos


def stack(predictor: Predictor, photos: list[Image.Image]) -> np.ndarray:
    return np.stack([make_pixels(photo, predictor.preprocessing) for photo in photos])


def test_embeddings_and_scores_equal_open_clips_own(bundle: Bundle, predictor: Predictor) -> None:
    clip = bundle.load_model().clip
    config = open_clip.transform.PreprocessCfg(**bundle.preprocessing.to_dict())
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    photos = make_photos()
    with torch.no_grad():
        inputs = torch.stack([transform(photo) for photo in photos])
        theirs = clip.encode_image(inputs, normalize=True)
        classifier = open_clip.build_zero_shot_classifier(
            clip, bundle.load_tokenizer(), ["single", "double"], ["a photo of a {}."]
        )
        expected = torch.sigmoid(theirs @ classifier / 0.07 - 1.5).numpy()
    ours = predictor.predict(stack(predictor, photos))
    cosines = (ours.embeddings * theirs.numpy()).sum(axis=1)
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(ours.embeddings, theirs.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.scores[:, 3:], expected, atol=1e-5)


def test_a_batch_of_one_equals_a_batch_of_many(predictor: Predictor) -> None:
    pixels = stack(predictor, make_photos())
    together = predictor.predict(pixels)
    for i in range(len(pixels)):
        alone = predictor.predict(pixels[i : i + 1])
        np.testing.assert_allclose(alone.embeddings[0], together.embeddings[i], atol=1e-5)
        np.testing.assert_allclose(alone.scores[0], together.scores[i], atol=1e-5)


def test_scores_computed_again_from_the_stored_vector_are_the_same(
    bundle: Bundle, predictor: Predictor
) -> None:
    prediction = predictor.predict(stack(predictor, make_photos()))
    assert prediction.embeddings.dtype == prediction.scores.dtype == np.float32
    stored = np.array([row.tolist() for row in prediction.embeddings], dtype=np.float32)
    np.testing.assert_allclose(predictor.score(stored), prediction.scores, rtol=0, atol=1e-5)
    info = bundle.info
    np.testing.assert_array_equal(
        score(stored, bundle.label_embeddings, info.tau, info.logit_bias),
        predictor.score(stored),
    )
    assert prediction.modality_weights is None
    assert prediction.text_cut is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_agrees_and_is_another_model_version(
    bundle: Bundle, predictor: Predictor, precision: str
) -> None:
    lower = load_predictor(bundle, device="cpu", precision=precision, scaled_decoding=True)
    pixels = stack(predictor, make_photos())
    ours, full = lower.predict(pixels), predictor.predict(pixels)
    assert ours.embeddings.dtype == np.float32
    assert np.abs(ours.embeddings - full.embeddings).max() > 0
    # says little about trained models: random weights embed all photos alike
    assert (ours.embeddings * full.embeddings).sum(axis=1).min() > 0.995
    assert lower.model_version != predictor.model_version
    np.testing.assert_allclose(
        lower.embed_texts(["a pool"]), predictor.embed_texts(["a pool"]), atol=1e-6
    )


def test_texts_are_embedded_for_zero_shot_questions(bundle: Bundle, predictor: Predictor) -> None:
    texts = ["a photo of a single.", "a photo of a double."]
    embeddings = predictor.embed_texts(texts)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, bundle.label_embeddings[3:], atol=1e-6)
    assert predictor.embed_texts([]).shape == (0, embeddings.shape[1])


def test_versions_are_those_of_bundle_and_taxonomy(predictor: Predictor) -> None:
    assert predictor.model_version.startswith("mumic-")
    assert predictor.taxonomy == TAXONOMY
    assert predictor.taxonomy_version == TAXONOMY.version


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 31, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
    ],
)
def test_wrong_pixels_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"expected uint8 \[B, 32, 32, 3\]"):
        make_predictor(tmp_path).predict(pixels)


def make_predictor(folder: Path, break_model: str = "") -> Predictor:
    """A predictor whose image tower breaks its contract in some way."""
    towers = make_towers(folder)
    mumic = MuMIC(towers.model, tau=0.07).eval()
    encode = mumic.clip.encode_image
    broken = {
        "": encode,
        "nan": lambda x: encode(x).index_fill(0, torch.tensor([1]), torch.nan),
        "inf": lambda x: encode(x).index_fill(0, torch.tensor([1]), torch.inf),
        "zero": lambda x: encode(x).index_fill(0, torch.tensor([1]), 0.0),
        "rows": lambda x: encode(x)[:-1],
        "columns": lambda x: encode(x)[:, :-1],
        "memory": lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out\nof memory")),
        "device": lambda x: (_ for _ in ()).throw(RuntimeError("CUDA error: lost")),
    }
    mumic.clip.encode_image = broken[break_model]
    return MumicPredictor(
        mumic,
        tokenizer=towers.tokenizer,
        preprocessing=towers.preprocessing,
        taxonomy=TAXONOMY,
        label_embeddings=np.zeros((5, 32), np.float32),
        tau=0.07,
        bias=0.0,
        version="mumic-test",
    )


@pytest.mark.parametrize(
    ("break_model", "words"),
    [
        ("nan", "1 of 3 rows"),
        ("inf", "1 of 3 rows"),
        ("zero", "1 of 3 rows"),
        ("rows", r"expected \[3, 32\]; got \[2, 32\]"),
        ("columns", r"expected \[3, 32\]; got \[3, 31\]"),
        ("memory", "lower model.batch_size"),
        ("device", "CUDA error: lost"),
    ],
)
def test_a_model_that_breaks_its_contract_stops_the_run(
    tmp_path: Path, break_model: str, words: str
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        make_predictor(tmp_path, break_model).predict(np.zeros((3, 32, 32, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_threads_of_a_cpu_are_set(bundle: Bundle) -> None:
    before = torch.get_num_threads()
    try:
        load_predictor(
            bundle, device="cpu", precision="fp32", scaled_decoding=True, threads=before + 1
        )
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_agrees_with_the_cpu(bundle: Bundle, predictor: Predictor, precision: str) -> None:
    on_gpu = load_predictor(bundle, device="cuda:0", precision=precision, scaled_decoding=True)
    pixels = stack(predictor, make_photos())
    waiting = [on_gpu.submit(pixels) for _ in range(3)]
    expected = predictor.predict(pixels).embeddings
    for wait in waiting:
        tolerance = 1e-4 if precision == "fp32" else 2e-2
        np.testing.assert_allclose(wait().embeddings, expected, atol=tolerance)
