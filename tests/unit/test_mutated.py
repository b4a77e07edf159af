"""Hundreds of damaged files between good ones: one outcome each, and the good ones as without."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.containers import sniff
from pipeline.images.decoder import DecodedPixels, Decoder
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage, UnreadableImage
from pipeline.images.preprocess import Preprocessing
from pipeline.images.reasons import Reason
from pipeline.models.bundle import read_bundle
from pipeline.models.engine import Engine, Outcome
from pipeline.models.serving import load_predictor
from pipeline.synthetic import write_mutated

PREPROCESSING = Preprocessing(size=32)
# Nobody's fault is a machine that does other things: no time-outs here.
DECODE = DecodeConfig(threads=2, prefetch_images=16, timeout_s=240.0, memory_mb=1024)
OF_FILES = {
    Reason.EMPTY,
    Reason.NOT_AN_IMAGE,
    Reason.TRUNCATED,
    Reason.CORRUPT,
    Reason.TOO_MANY_PIXELS,
    Reason.DECODE_MEMORY,
    Reason.DECODER_CRASHED,
}


def make_photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def between_good_ones(paths: list[Path]) -> Iterator[ImageRequest]:
    for number, path in enumerate(paths):
        if number % 3 == 0:
            yield ImageRequest(f"good {number}", None, make_photo(number))
        yield ImageRequest(path.name, str(path), None)


def test_every_tenth_has_one_outcome_and_the_good_ones_are_as_without_it(tmp_path: Path) -> None:
    paths = write_mutated(tmp_path, every=10)
    requests = list(between_good_ones(paths))
    decoder = Decoder(preprocessing=PREPROCESSING, max_pixels=DECODE.max_pixels, cover=32)
    with ImageLoader(FetchConfig(), DECODE, PREPROCESSING, scaled_decoding=True) as loader:
        loaded = list(loader.load(requests))

    assert len(paths) >= 30
    assert [request for request, _ in loaded] == requests
    for request, image in loaded:
        if request.content is not None:
            alone = decoder.decode(request.content)
            assert isinstance(alone, DecodedPixels)
            assert isinstance(image, LoadedImage)
            assert (image.pixels == alone.pixels).all()
        elif isinstance(image, UnreadableImage):
            assert image.failure.reason in OF_FILES, request.key
            assert image.content_sha256


def test_a_subset_is_part_of_the_whole_and_the_same_on_every_call(tmp_path: Path) -> None:
    first = write_mutated(tmp_path / "a", every=30)
    other = write_mutated(tmp_path / "b", every=15)
    assert [path.name for path in first] == [path.name for path in other][::2]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in other][::2]


def peak_mib() -> int:
    """The most memory this process had since the peak was forgotten."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) // 1024


@pytest.mark.long
@pytest.mark.timeout(1800)  # all bombs; a minute on an idle machine
def test_all_of_them_change_no_tag_of_others_and_take_bounded_memory(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    paths = write_mutated(tmp_path)
    formats = {sniff(path.read_bytes()) for path in paths}
    assert len(paths) >= 300
    assert formats >= {"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", None}

    requests = list(between_good_ones(paths))
    good = [request for request in requests if request.content is not None]
    alone = {outcome.key: outcome for outcome in tag(good, tiny_bundle)}
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mib()
    outcomes = tag(requests, tiny_bundle)

    assert [outcome.key for outcome in outcomes] == [request.key for request in requests]
    reasons = {outcome.failure.reason for outcome in outcomes if outcome.failure is not None}
    assert {
        Reason.TRUNCATED,
        Reason.CORRUPT,
        Reason.NOT_AN_IMAGE,
        Reason.TOO_MANY_PIXELS,
    } <= reasons
    assert reasons <= OF_FILES
    for outcome in outcomes:
        if outcome.key in alone:
            assert outcome.failure is None
            np.testing.assert_allclose(outcome.scores, alone[outcome.key].scores, atol=1e-5)
            np.testing.assert_allclose(outcome.embedding, alone[outcome.key].embedding, atol=1e-5)
        else:
            assert (outcome.failure is None) == (outcome.scores is not None)
    # The waiting bytes (30 MB of files) and a batch: pixels of bombs stay in their cage.
    assert peak_mib() - before < 150


def tag(requests: list[ImageRequest], bundle: Path) -> list[Outcome]:
    predictor = load_predictor(
        read_bundle(bundle), device="cpu", precision="fp32", scaled_decoding=True
    )
    with ImageLoader(FetchConfig(), DECODE, predictor.preprocessing, True) as loader:
        return list(Engine(predictor, loader, 16).run(requests))
