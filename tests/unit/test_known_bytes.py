"""Images whose bytes an earlier run of the model knew: neither decoded nor encoded, told the same.

With the real loader; what is decoded and what the model sees is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_models import make_bundle, make_cma_bundle

from pipeline.config import DecodeConfig, FetchConfig, InferenceConfig
from pipeline.errors import ModelError
from pipeline.images.loader import ImageRequest, KnownImage
from pipeline.images.reasons import Reason
from pipeline.models.bundle import Bundle
from pipeline.models.engine import Engine, Outcome
from pipeline.models.memory import Memory
from pipeline.models.serving import make_engine
from pipeline.synthetic import draw_photo
from udfs.tag_image import tag_batches

PHOTOS = [draw_photo(64, 48, number) for number in range(6)]
DECODE = DecodeConfig(threads=2, cage=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("known"))


@dataclass
class Counted:
    """An engine, how many images it decoded, and how many its model saw."""

    engine: Engine
    decodes: list[int] = field(default_factory=list)
    encoded: int = 0

    @property
    def decoded(self) -> int:
        return len(self.decodes)

    def run(self, requests: list[ImageRequest]) -> list[Outcome]:
        return list(self.engine.run(requests))


def make_counted(
    bundle: Bundle, *, decode: DecodeConfig = DECODE, memory: Memory | None = None
) -> Counted:
    settings = InferenceConfig(device="cpu", batch_size=4)
    engine, loader = make_engine(bundle, settings, FetchConfig(), decode, memory=memory)
    counted = Counted(engine)
    decode_one, submit = loader._decoder.decode, engine.predictor.submit

    def decoding(content: bytes) -> Any:
        counted.decodes.append(len(content))  # from several threads
        return decode_one(content)

    def encoding(pixels: Any, texts: Any = None) -> Any:
        counted.encoded += len(pixels)
        return submit(pixels, texts)

    loader._decoder = SimpleNamespace(decode=decoding)  # type: ignore[assignment]
    engine.predictor.submit = encoding  # type: ignore[method-assign]
    return counted


def requests() -> list[ImageRequest]:
    return [ImageRequest(str(number), None, photo) for number, photo in enumerate(PHOTOS)]


def as_known(outcome: Outcome, **other: Any) -> KnownImage:
    told = {
        "content_sha256": outcome.content_sha256,
        "width": outcome.width,
        "height": outcome.height,
        "embedding": outcome.embedding,
    }
    return KnownImage(**told | other)


@pytest.fixture(scope="module")
def afresh(bundle: Bundle) -> list[Outcome]:
    counted = make_counted(bundle)
    outcomes = counted.run(requests())
    assert (counted.decoded, counted.encoded) == (len(PHOTOS), len(PHOTOS))
    return outcomes


def assert_same(found: Outcome, expected: Outcome) -> None:
    for name in ("key", "failure", "content_sha256", "width", "height", "source"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)


@pytest.mark.parametrize("remembers", [False, True])
def test_a_known_image_is_neither_decoded_nor_encoded(
    bundle: Bundle, afresh: list[Outcome], tmp_path: Path, remembers: bool
) -> None:
    memory = Memory(tmp_path / "m", limit=9) if remembers else None
    counted = make_counted(bundle, memory=memory)
    asked = [
        replace(request, known=as_known(outcome))
        for request, outcome in zip(requests(), afresh, strict=True)
    ]
    outcomes = counted.run(asked * 3)  # more than a batch may wait for
    assert (counted.decoded, counted.encoded) == (0, 0)
    for found, expected in zip(outcomes, afresh * 3, strict=True):
        assert_same(found, expected)
        np.testing.assert_array_equal(found.embedding, expected.embedding)


def test_other_bytes_are_decoded_and_encoded(bundle: Bundle, afresh: list[Outcome]) -> None:
    counted = make_counted(bundle)
    of_others = [*afresh[1:], afresh[0]]
    asked = [
        replace(request, known=as_known(outcome))
        for request, outcome in zip(requests(), of_others, strict=True)
    ]
    outcomes = counted.run(asked)
    assert (counted.decoded, counted.encoded) == (len(PHOTOS), len(PHOTOS))
    for found, expected in zip(outcomes, afresh, strict=True):
        assert_same(found, expected)


def test_known_images_change_nothing_about_their_neighbours(
    bundle: Bundle, afresh: list[Outcome]
) -> None:
    counted = make_counted(bundle)
    asked = [
        replace(request, known=as_known(outcome) if number % 2 else None)
        for number, (request, outcome) in enumerate(zip(requests(), afresh, strict=True))
    ]
    broken = ImageRequest("broken", None, b"no image", known=as_known(afresh[0]))
    outcomes = counted.run([*asked[:3], broken, *asked[3:]])
    assert (counted.decoded, counted.encoded) == (4, 3)
    assert outcomes.pop(3).failure is not None
    for found, expected in zip(outcomes, afresh, strict=True):
        assert_same(found, expected)


def spoilt(vector: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "short", vector[:-1]
    yield "long", np.append(vector, np.float32(0))
    yield "empty", vector[:0]
    yield "of two dimensions", vector[None]
    yield "no number", np.where(np.arange(len(vector)) == 1, np.float32(np.nan), vector)
    yield "infinite", np.where(np.arange(len(vector)) == 1, np.float32(np.inf), vector)
    yield "zero", vector * 0
    yield "twice as long", vector * 2


def test_vectors_that_cannot_be_the_model_s_are_not_used(
    bundle: Bundle, afresh: list[Outcome]
) -> None:
    assert afresh[0].embedding is not None
    for name, vector in spoilt(afresh[0].embedding):
        counted = make_counted(bundle)
        known = as_known(afresh[0], embedding=vector)
        (found,) = counted.run([replace(requests()[0], known=known)])
        assert (counted.decoded, counted.encoded) == (1, 1), name
        assert_same(found, afresh[0])


def test_an_image_that_is_too_large_by_now_fails_as_it_would(
    bundle: Bundle, afresh: list[Outcome]
) -> None:
    asked = [replace(requests()[0], known=as_known(afresh[0]))]
    for max_pixels, reason in ((64 * 48, None), (64 * 48 - 1, Reason.TOO_MANY_PIXELS)):
        counted = make_counted(bundle, decode=replace(DECODE, max_pixels=max_pixels))
        (found,) = counted.run(asked)
        assert (found.failure and found.failure.reason) == reason
        assert counted.encoded == 0


def test_a_model_that_reads_texts_makes_nothing_of_a_known_vector(tmp_path: Path) -> None:
    counted = make_counted(make_cma_bundle(tmp_path))
    (first,) = counted.run(requests()[:1])
    (again,) = counted.run([replace(requests()[0], known=as_known(first))])
    assert (counted.decoded, counted.encoded) == (2, 2)
    assert_same(again, first)
    with pytest.raises(ModelError, match="from embeddings alone"):
        counted.engine.predictor.predict_from_embeddings(np.zeros((1, 32), np.float32))


def test_the_udf_hands_on_what_is_known(bundle: Bundle, afresh: list[Outcome]) -> None:
    told = [as_known(outcome) for outcome in afresh]
    known = pd.DataFrame(
        {
            "content_sha256": [told[0].content_sha256, None, told[2].content_sha256],
            # as Spark gives whole numbers beside nulls
            "width": [told[0].width, float("nan"), told[2].width],
            "height": [told[0].height, float("nan"), told[2].height],
            "embedding": [told[0].embedding, None, told[2].embedding],
        }
    )
    ids, nothing = pd.Series(["0", "1", "2"]), pd.Series([None] * 3, dtype=object)
    batch = (ids, nothing, pd.Series(PHOTOS[:3], dtype=object), nothing)
    counted = make_counted(bundle)
    (with_known,) = tag_batches(iter([(*batch, known)]), counted.engine, score_floor=0.0)
    assert (counted.decoded, counted.encoded) == (1, 1)
    (without,) = tag_batches(iter([batch]), counted.engine, score_floor=0.0)
    assert (counted.decoded, counted.encoded) == (4, 4)
    for column in ("reason", "content_sha256", "width", "height"):
        assert list(with_known[column]) == list(without[column])
    assert all(isinstance(width, int) for width in with_known["width"])
    for one, other in zip(with_known["tags"], without["tags"], strict=True):
        assert {tag["label"]: tag["score"] for tag in one} == pytest.approx(
            {tag["label"]: tag["score"] for tag in other}, abs=1e-5
        )


def test_the_hash_is_that_of_the_bytes(afresh: list[Outcome]) -> None:
    hashes = [hashlib.sha256(photo).hexdigest() for photo in PHOTOS]
    assert [outcome.content_sha256 for outcome in afresh] == hashes
    assert len(set(hashes)) == len(PHOTOS)
