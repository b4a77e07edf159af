"""The engine: order, batches, neighbours, and how far it looks ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import make_bundle

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.errors import ModelError
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage, UnreadableImage
from pipeline.images.reasons import Failure, Reason
from pipeline.models.engine import Engine, Outcome
from pipeline.models.memory import Memory
from pipeline.models.mumic_predictor import MumicPredictor
from pipeline.models.predictor import Prediction, Predictor
from pipeline.models.serving import load_predictor

AHEAD = 8


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = make_bundle(tmp_path_factory.mktemp("engine"))
    return load_predictor(bundle, device="cpu", precision="fp32", scaled_decoding=False)


class _FakeLoader:
    """Makes pixels from the key; keys that start with ``bad`` fail. Looks AHEAD images ahead."""

    def __init__(self) -> None:
        self.pulled = 0
        self.closed = False

    def load(
        self, requests: Iterable[ImageRequest]
    ) -> Iterator[tuple[ImageRequest, LoadedImage | UnreadableImage]]:
        waiting: list[ImageRequest] = []
        try:
            for request in requests:
                self.pulled += 1
                waiting.append(request)
                if len(waiting) > AHEAD:
                    yield self._load(waiting.pop(0))
            while waiting:
                yield self._load(waiting.pop(0))
        finally:
            self.closed = True

    def _load(self, request: ImageRequest) -> tuple[ImageRequest, LoadedImage | UnreadableImage]:
        sha256 = hashlib.sha256(request.key.encode()).hexdigest()
        if request.key.startswith("bad"):
            failure = Failure(Reason.CORRUPT, request.key)
            return request, UnreadableImage(failure=failure, content_sha256=sha256)
        seed = int(sha256[:8], 16)
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = LoadedImage(pixels=pixels, content_sha256=sha256, width=seed % 99, height=7)
        return request, image


class _CountingPredictor(MumicPredictor):
    """Remembers the sizes of the batches and the texts that came with them."""

    def __init__(self, inner: Predictor) -> None:
        self.__dict__.update(inner.__dict__)
        self.batches: list[int] = []
        self.texts: list[str | None] = []

    def submit(self, pixels, texts=None) -> Callable[[], Prediction]:  # type: ignore[no-untyped-def]
        self.batches.append(len(pixels))
        self.texts += texts
        return super().submit(pixels, texts)


def make_requests(keys: Iterable[str]) -> Iterator[ImageRequest]:
    return (ImageRequest(key=key, uri=key, content=None, text=f"t {key}") for key in keys)


def run(predictor: Predictor, keys: list[str], batch_size: int = 4) -> list[Outcome]:
    return list(Engine(predictor, _FakeLoader(), batch_size).run(make_requests(keys)))


@pytest.mark.parametrize("n", [0, 1, 4, 5, 23])
@pytest.mark.parametrize("in_flight", [0, 1])
def test_one_outcome_for_each_request_in_order(
    predictor: Predictor, n: int, in_flight: int
) -> None:
    keys = [f"bad {i}" if i % 3 == 1 else f"good {i}" for i in range(n)]
    engine = Engine(predictor, _FakeLoader(), 4)
    engine._in_flight = in_flight  # as on a GPU
    outcomes = list(engine.run(make_requests(keys)))
    assert [outcome.key for outcome in outcomes] == keys
    for outcome in outcomes:
        good = outcome.key.startswith("good")
        assert (outcome.failure is None) == good
        assert (outcome.embedding is not None) == (outcome.scores is not None) == good
        assert (outcome.width is not None) == (outcome.height is not None) == good
        assert outcome.content_sha256 == hashlib.sha256(outcome.key.encode()).hexdigest()


def test_outcomes_are_those_of_the_image_alone(predictor: Predictor) -> None:
    keys = [f"good {i}" for i in range(9)]
    for outcome in run(predictor, keys):
        (alone,) = run(predictor, [outcome.key])
        np.testing.assert_allclose(outcome.embedding, alone.embedding, atol=1e-5)
        np.testing.assert_allclose(outcome.scores, alone.scores, atol=1e-5)
        assert (outcome.width, outcome.height) == (alone.width, alone.height)


@pytest.mark.parametrize("place", range(5))
def test_a_damaged_image_at_any_place_leaves_its_neighbours_as_they_were(
    predictor: Predictor, place: int
) -> None:
    keys = [f"good {i}" for i in range(4)]
    undisturbed = {outcome.key: outcome for outcome in run(predictor, keys)}
    outcomes = run(predictor, [*keys[:place], "bad", *keys[place:]])
    assert outcomes[place].failure == Failure(Reason.CORRUPT, "bad")
    for outcome in outcomes[:place] + outcomes[place + 1 :]:
        np.testing.assert_array_equal(outcome.embedding, undisturbed[outcome.key].embedding)


def test_failed_images_take_no_place_in_a_batch(predictor: Predictor) -> None:
    counting = _CountingPredictor(predictor)
    keys = ["good 1", "bad 1", "bad 2", "good 2", "good 3", "bad 3", "good 4", "good 5"]
    run(counting, keys)
    assert counting.batches == [4, 1]
    assert counting.texts == [f"t good {i}" for i in range(1, 6)]


def test_an_image_goes_through_the_model_once(predictor: Predictor) -> None:
    counting = _CountingPredictor(predictor)
    run(counting, [f"good {i}" for i in range(10)])
    assert counting.batches == [4, 4, 2]


class _SameBytes(_FakeLoader):
    """The last word of a key stands for the bytes: ``1 good a`` and ``2 good a`` have the same."""

    def _load(self, request: ImageRequest) -> tuple[ImageRequest, LoadedImage | UnreadableImage]:
        _, same = super()._load(replace(request, key=request.key.partition(" ")[2]))
        return request, same


def run_repeated(
    predictor: Predictor, keys: list[str], *, memory: Memory | None = None, text: str | None = None
) -> tuple[list[Outcome], list[int]]:
    counting = _CountingPredictor(predictor)
    requests = (ImageRequest(key=key, uri=key, content=None, text=text) for key in keys)
    outcomes = list(Engine(counting, _SameBytes(), 4, memory=memory).run(requests))
    assert [outcome.key for outcome in outcomes] == keys
    return outcomes, counting.batches


def test_the_same_bytes_go_through_the_model_once_in_a_batch(predictor: Predictor) -> None:
    keys = [f"{i} good {'abc'[i % 3]}" for i in range(9)]
    outcomes, batches = run_repeated(predictor, keys)
    assert sum(batches) == 3
    for outcome in outcomes:
        (alone,), _ = run_repeated(predictor, [outcome.key])
        assert (outcome.width, outcome.content_sha256) == (alone.width, alone.content_sha256)
        np.testing.assert_allclose(outcome.embedding, alone.embedding, atol=1e-5)
        np.testing.assert_allclose(outcome.scores, alone.scores, atol=1e-5)


def test_with_a_memory_they_go_through_it_once_ever(predictor: Predictor, tmp_path: Path) -> None:
    keys = [f"{i} good {i % 7}" for i in range(40)] + ["0 bad 1", "1 bad 1"]
    unaided, _ = run_repeated(predictor, keys)
    outcomes, batches = run_repeated(predictor, keys, memory=Memory(tmp_path / "m", limit=100))
    assert sum(batches) == 7
    again, batches = run_repeated(predictor, keys, memory=Memory(tmp_path / "m", limit=100))
    assert batches == []
    for one, two, three in zip(outcomes, again, unaided, strict=True):
        assert one.failure == two.failure == three.failure
        assert one.source == two.source == three.source
        if one.failure is None:
            assert (one.width, one.height) == (two.width, two.height) == (three.width, 7)
            np.testing.assert_array_equal(one.embedding, two.embedding)
            np.testing.assert_allclose(one.embedding, three.embedding, atol=1e-5)
            np.testing.assert_array_equal(one.scores, two.scores)


def test_texts_matter_where_they_are_read(predictor: Predictor, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", limit=100)
    for text in ("a bed", "a pool", None):
        run_repeated(predictor, ["0 good a"], memory=memory, text=text)
    assert sum(run_repeated(predictor, ["1 good a"], memory=memory, text="other")[1]) == 0
    reading = _CountingPredictor(predictor)
    reading.reads_text = True
    requests = [
        ImageRequest(key=f"{i} good b", uri="u", content=None, text=text)
        for i, text in enumerate(["a bed", "a pool", None, "a bed", None])
    ]
    assert len(list(Engine(reading, _SameBytes(), 8, memory=memory).run(requests))) == 5
    assert reading.batches == [3]


def test_a_long_run_of_repeats_does_not_pile_up(predictor: Predictor) -> None:
    loader = _SameBytes()
    outcomes = Engine(predictor, loader, 4).run(make_requests(f"{i} good" for i in range(1000)))
    assert next(outcomes).embedding is not None
    assert loader.pulled <= 4 * 4 + AHEAD + 1


def test_a_long_run_of_failures_does_not_pile_up(predictor: Predictor) -> None:
    loader = _FakeLoader()
    keys = ["good", *(f"bad {i}" for i in range(1000))]
    outcomes = Engine(predictor, loader, 4).run(make_requests(keys))
    assert next(outcomes).embedding is not None
    assert loader.pulled <= 4 * 4 + AHEAD + 1


@pytest.mark.parametrize("in_flight", [0, 1])
def test_requests_are_pulled_no_further_than_batches_and_look_ahead(
    predictor: Predictor, in_flight: int
) -> None:
    loader = _FakeLoader()
    engine = Engine(predictor, loader, 4)
    engine._in_flight = in_flight
    outcomes = engine.run(make_requests(f"good {i}" for i in range(1000)))
    for taken, _ in enumerate(outcomes, start=1):
        assert loader.pulled <= taken + 4 * (1 + in_flight) + AHEAD
        if taken == 40:
            break
    outcomes.close()
    assert loader.closed


def test_a_model_error_stops_the_stream_and_ends_the_loader(predictor: Predictor) -> None:
    class _Failing(_CountingPredictor):
        def submit(self, pixels, texts=None) -> Callable[[], Prediction]:  # type: ignore[no-untyped-def]
            raise ModelError("the device failed")

    loader = _FakeLoader()
    with pytest.raises(ModelError, match="device failed"):
        list(Engine(_Failing(predictor), loader, 4).run(make_requests(["good 1"])))
    assert loader.closed


def test_an_error_of_the_source_of_requests_is_not_swallowed(predictor: Predictor) -> None:
    def broken() -> Iterator[ImageRequest]:
        yield from make_requests(["good 1"])
        raise ConnectionResetError("socket closed")

    with pytest.raises(ConnectionResetError):
        list(Engine(predictor, _FakeLoader(), 4).run(broken()))


def test_a_batch_size_below_one_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        Engine(predictor, _FakeLoader(), 0)


def test_bytes_become_outcomes_with_the_real_loader(predictor: Predictor, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    requests = [
        ImageRequest(key="file", uri=str(tmp_path / "a.png"), content=None),
        ImageRequest(key="missing", uri=str(tmp_path / "b.png"), content=None),
        ImageRequest(key="cut", uri=None, content=content[: len(content) // 2]),
        ImageRequest(key="bytes", uri=None, content=content),
    ]
    loader = ImageLoader(FetchConfig(attempts=1), DecodeConfig(), predictor.preprocessing, False)
    with loader:
        outcomes = list(Engine(predictor, loader, 4).run(requests))
    assert [outcome.failure and outcome.failure.reason for outcome in outcomes] == [
        None,
        Reason.NOT_FOUND,
        Reason.TRUNCATED,
        None,
    ]
    assert (outcomes[0].width, outcomes[0].height) == (70, 50)
    assert outcomes[0].content_sha256 == hashlib.sha256(content).hexdigest()
    np.testing.assert_allclose(outcomes[0].embedding, outcomes[3].embedding, atol=1e-6)
