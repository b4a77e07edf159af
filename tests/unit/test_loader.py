"""Loading: in order, overlapped, bounded, and with no thread left behind."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images import decoder as decoder_module
from pipeline.images import loader as loader_module
from pipeline.images.decode import DecodedImage, decode
from pipeline.images.fetch import Fetcher
from pipeline.images.loader import (
    ImageLoader,
    ImageRequest,
    LoadedImage,
    RememberedImage,
    UnreadableImage,
)
from pipeline.images.preprocess import Preprocessing, make_pixels
from pipeline.images.reasons import Failure, Reason

PREPROCESSING = Preprocessing(size=32)
FETCH = FetchConfig(threads=4, attempts=1)
DECODE = DecodeConfig(threads=2, prefetch_images=8)


def make_jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((160, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


JPEGS = [make_jpeg(seed) for seed in range(12)]


def make_loader(
    fetch: FetchConfig = FETCH, decode: DecodeConfig = DECODE, scaled_decoding: bool = False
) -> ImageLoader:
    return ImageLoader(fetch, decode, PREPROCESSING, scaled_decoding)


def expected_pixels(content: bytes, cover: int | None = None) -> np.ndarray:
    decoded = decode(content, max_pixels=100_000, cover=cover)
    assert isinstance(decoded, DecodedImage)
    return make_pixels(decoded.image, PREPROCESSING)


@pytest.fixture
def requests(tmp_path: Path) -> list[ImageRequest]:
    """Files and inline bytes, alternating."""
    made = []
    for number, content in enumerate(JPEGS):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        inline = number % 2 == 1
        made.append(
            ImageRequest(
                key=f"image-{number}",
                uri=None if inline else str(path),
                content=content if inline else None,
                text=f"title {number}",
            )
        )
    return made


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


@pytest.mark.parametrize("cage", [True, False])
def test_images_come_in_order_with_their_pixels_hash_and_size(
    requests: list[ImageRequest], cage: bool
) -> None:
    loaded = list(make_loader(decode=replace(DECODE, cage=cage)).load(iter(requests)))
    assert [request for request, _ in loaded] == requests
    for (_, image), content in zip(loaded, JPEGS, strict=True):
        assert isinstance(image, LoadedImage)
        assert (image.pixels == expected_pixels(content)).all()
        assert image.pixels.flags.writeable
        assert image.content_sha256 == hashlib.sha256(content).hexdigest()
        assert (image.width, image.height) == (160, 120)


def test_scaled_decoding_takes_the_smallest_scale_that_covers(requests: list[ImageRequest]) -> None:
    (_, image), *_ = make_loader(scaled_decoding=True).load(requests[:1])
    assert isinstance(image, LoadedImage)
    assert (image.pixels == expected_pixels(JPEGS[0], cover=32)).all()
    assert (image.pixels != expected_pixels(JPEGS[0])).any()
    assert (image.width, image.height) == (160, 120)


def test_what_is_known_of_bytes_is_not_decoded(requests: list[ImageRequest]) -> None:
    asked = []

    def recall(content_sha256: str, request: ImageRequest) -> str | None:
        asked.append(request.key)
        return f"known {request.key}" if request.key in ("image-2", "image-3") else None

    loader = ImageLoader(FETCH, DECODE, PREPROCESSING, scaled_decoding=False, recall=recall)
    loaded = list(loader.load(requests))
    assert sorted(asked) == sorted(request.key for request in requests)
    for number, (request, image) in enumerate(loaded):
        sha256 = hashlib.sha256(JPEGS[number]).hexdigest()
        if number in (2, 3):
            assert image == RememberedImage(sha256, f"known {request.key}")
        else:
            assert isinstance(image, LoadedImage)


@pytest.mark.parametrize("place", range(12))
def test_a_bad_image_at_any_place_leaves_its_neighbours_as_they_were(
    requests: list[ImageRequest], place: int
) -> None:
    bad = [
        replace(requests[place], uri=None, content=b"no image"),
        replace(requests[place], uri="/nowhere/at/all.jpg", content=None),
        replace(requests[place], uri=None, content=JPEGS[place][:700]),
        replace(requests[place], uri=None, content=b""),
        replace(requests[place], uri=None, content=None),
        replace(requests[place], uri="", content=None),
    ][place % 6]
    loaded = list(make_loader().load([*requests[:place], bad, *requests[place + 1 :]]))
    assert [request.key for request, _ in loaded] == [request.key for request in requests]
    for number, (_, image) in enumerate(loaded):
        if number == place:
            assert isinstance(image, UnreadableImage)
        else:
            assert isinstance(image, LoadedImage)
            assert (image.pixels == expected_pixels(JPEGS[number])).all()


def test_each_failure_has_its_reason_and_the_hash_of_the_bytes_it_had() -> None:
    contents: list[tuple[str | None, bytes | None, Reason, bool]] = [
        (None, None, Reason.NO_SOURCE, False),
        ("", None, Reason.NO_SOURCE, False),
        ("ftp://host/a", None, Reason.URI_INVALID, False),
        ("http://host/a", None, Reason.URI_NOT_ALLOWED, False),
        ("/nowhere/a.jpg", None, Reason.NOT_FOUND, False),
        (None, b"", Reason.EMPTY, False),
        (None, b"text", Reason.NOT_AN_IMAGE, True),
        (None, JPEGS[0][:600], Reason.TRUNCATED, True),
    ]
    made = [ImageRequest(str(i), uri, content) for i, (uri, content, _, _) in enumerate(contents)]
    loaded = make_loader().load(made)
    for (_, image), (_, content, reason, hashed) in zip(loaded, contents, strict=True):
        assert isinstance(image, UnreadableImage)
        assert image.failure.reason is reason
        expected = hashlib.sha256(content or b"").hexdigest() if hashed else None
        assert image.content_sha256 == expected


def test_inline_bytes_are_used_without_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fetcher, "fetch", lambda *_, **__: pytest.fail("fetched"))
    (_, image), *_ = make_loader().load([ImageRequest("a", "/nowhere.jpg", JPEGS[0])])
    assert isinstance(image, LoadedImage)


def test_inline_bytes_keep_the_limit_of_fetched_ones(tmp_path: Path) -> None:
    content = JPEGS[0]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    requests = [ImageRequest("inline", None, content), ImageRequest("file", str(path), None)]

    exact = make_loader(fetch=replace(FETCH, max_bytes=len(content)))
    smaller = make_loader(fetch=replace(FETCH, max_bytes=len(content) - 1))

    assert all(isinstance(image, LoadedImage) for _, image in exact.load(requests))
    (_, inline), (_, fetched) = smaller.load(requests)
    assert inline == fetched
    assert isinstance(inline, UnreadableImage)
    assert inline.failure.reason is Reason.TOO_LARGE


def test_nothing_in_nothing_out() -> None:
    assert list(make_loader().load([])) == []


@pytest.mark.parametrize("prefetch_images", [1, 3, 8])
def test_requests_are_pulled_by_the_caller_and_no_further_ahead_than_allowed(
    requests: list[ImageRequest], prefetch_images: int
) -> None:
    pulled_in: list[threading.Thread] = []

    def pull() -> Iterator[ImageRequest]:
        for request in requests:
            pulled_in.append(threading.current_thread())
            yield request

    loader = make_loader(decode=replace(DECODE, prefetch_images=prefetch_images))
    for taken, _ in enumerate(loader.load(pull())):
        assert len(pulled_in) <= taken + prefetch_images
    assert len(pulled_in) == len(requests)
    assert set(pulled_in) == {threading.current_thread()}


def test_images_held_in_memory_are_bounded_however_slow_the_consumer(
    requests: list[ImageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts results that exist and have not been handed out."""
    made = 0
    lock = threading.Lock()
    original = ImageLoader._load_bytes

    def count(self: ImageLoader, request: ImageRequest, content: bytes) -> object:
        nonlocal made
        with lock:
            made += 1
        return original(self, request, content)

    monkeypatch.setattr(ImageLoader, "_load_bytes", count)
    loader = make_loader(decode=replace(DECODE, prefetch_images=3))
    for taken, _ in enumerate(loader.load(requests)):
        time.sleep(0.01)
        assert made <= taken + 3


def test_bytes_that_wait_for_a_decoder_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most, lock = 0, threading.Lock()

    def fetch(self: Fetcher, uri: str, **_: object) -> bytes:
        return JPEGS[int(uri)]

    def watch(self: ImageLoader, request: ImageRequest, content: bytes) -> object:
        time.sleep(0.01)
        return original(self, request, content)

    original = ImageLoader._load_bytes
    take = loader_module._ByteBudget.take

    def count(self: loader_module._ByteBudget, size_bytes: int) -> bool:
        nonlocal most
        result = take(self, size_bytes)
        with lock:
            most = max(most, self._taken_bytes)
        return result

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    monkeypatch.setattr(ImageLoader, "_load_bytes", watch)
    monkeypatch.setattr(loader_module._ByteBudget, "take", count)
    largest = max(map(len, JPEGS))
    for limit in (1, 2 * largest):
        most = 0
        monkeypatch.setattr(loader_module, "MAX_WAITING_BYTES", limit)
        made = [ImageRequest(str(i), str(i), None) for i in range(len(JPEGS))]
        loaded = list(make_loader(decode=replace(DECODE, prefetch_images=12)).load(made))
        assert all(isinstance(image, LoadedImage) for _, image in loaded)
        assert most <= max(limit, largest)


def test_fetching_overlaps_with_itself_and_with_the_consumer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(self: Fetcher, uri: str, **_: object) -> bytes:
        time.sleep(0.05)
        return JPEGS[int(uri) % len(JPEGS)]

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    made = [ImageRequest(str(i), str(i), None) for i in range(32)]
    started = time.monotonic()
    decode = replace(DECODE, prefetch_images=32, cage=False)  # decoders start in no time
    loader = make_loader(replace(FETCH, threads=16), decode)
    for _ in loader.load(made):
        time.sleep(0.01)
    # One after the other: 32 * 0.05 + 32 * 0.01 = 1.9 s and the decoding.
    assert time.monotonic() - started < 1.4


def test_the_order_holds_when_later_images_are_ready_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(self: Fetcher, uri: str, **_: object) -> bytes:
        time.sleep(0.05 if int(uri) % 4 == 0 else 0)
        return JPEGS[int(uri)]

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    made = [ImageRequest(str(i), str(i), None) for i in range(len(JPEGS))]
    for (request, image), content in zip(make_loader().load(made), JPEGS, strict=True):
        assert isinstance(image, LoadedImage)
        assert JPEGS[int(request.key)] == content
        assert image.content_sha256 == hashlib.sha256(content).hexdigest()


# --- ends


def started_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("image-")]


def test_threads_live_no_longer_than_the_generator(requests: list[ImageRequest]) -> None:
    loader = make_loader()
    generator = loader.load(requests)
    assert started_threads() == []
    next(generator)
    assert started_threads()
    assert not any(t.daemon for t in threading.enumerate() if t.name.startswith("image-"))
    generator.close()  # type: ignore[attr-defined]
    assert started_threads() == []
    assert len(list(loader.load(requests))) == len(requests)


def test_an_exception_of_the_input_arrives_and_ends_the_threads(
    requests: list[ImageRequest],
) -> None:
    def pull() -> Iterator[ImageRequest]:
        yield from requests
        raise ConnectionError("the socket broke")

    seen: list[object] = []
    with pytest.raises(ConnectionError, match="the socket broke"):
        seen.extend(make_loader().load(pull()))
    assert len(seen) == len(requests) - DECODE.prefetch_images + 1
    assert started_threads() == []


def test_an_exception_of_the_consumer_ends_the_threads(requests: list[ImageRequest]) -> None:
    def consume() -> None:
        for _ in make_loader().load(requests):
            raise RuntimeError("out of GPU memory")

    with pytest.raises(RuntimeError, match="out of GPU memory"):
        consume()
    assert started_threads() == []


def test_a_bug_arrives_where_the_result_is_taken(
    requests: list[ImageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(decoder_module, "make_pixels", fail)
    with pytest.raises(ZeroDivisionError):
        list(make_loader(decode=replace(DECODE, cage=False)).load(requests))
    assert started_threads() == []


def test_lack_of_memory_for_resizing_is_a_failure(
    requests: list[ImageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(decoder_module, "make_pixels", fail)
    for _, image in make_loader(decode=replace(DECODE, cage=False)).load(requests):
        assert isinstance(image, UnreadableImage)
        assert image.failure.reason is Reason.OUT_OF_MEMORY
        assert image.content_sha256


def wait_for_cancel(self: Fetcher, uri: str, *, cancelled: threading.Event) -> bytes | Failure:
    """A fetch that takes for ever, unless nobody waits for it any more."""
    cancelled.wait(30)
    return Failure(Reason.FETCH_FAILED, "cancelled")


@pytest.mark.parametrize("end", ["generator", "loader", "context"])
def test_closing_does_not_wait_for_fetches_in_flight(
    requests: list[ImageRequest], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    slow = [replace(r, uri="slow", content=None) for r in requests[1:]]
    monkeypatch.setattr(Fetcher, "fetch", wait_for_cancel)
    loader = make_loader()
    generator = loader.load([replace(requests[0], content=JPEGS[0]), *slow])
    next(generator)
    started = time.monotonic()
    ends: dict[str, Callable[[], None]] = {
        "generator": generator.close,  # type: ignore[attr-defined]
        "loader": loader.close,
        "context": lambda: loader.__exit__(None, None, None),
    }
    ends[end]()
    assert time.monotonic() - started < 5
    assert started_threads() == []


def test_closing_from_another_thread_releases_whoever_waits(
    requests: list[ImageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fetcher, "fetch", wait_for_cancel)
    monkeypatch.setattr(loader_module._ByteBudget, "take", lambda *_: False)
    loader = make_loader(decode=replace(DECODE, prefetch_images=1))
    closer = threading.Timer(0.1, loader.close)
    closer.start()
    outcomes: list[object] = []
    slow = (replace(r, uri="slow", content=None) for r in requests)
    with pytest.raises((CancelledError, RuntimeError)):
        outcomes.extend(loader.load(slow))
    closer.join()
    assert len(outcomes) <= 1
    assert started_threads() == []
