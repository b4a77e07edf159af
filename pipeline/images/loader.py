"""A stream of requests to a stream of pixels, in order, with fetching and decoding overlapped.

Requests are pulled only in the thread of whoever iterates (Spark's socket is not shared between
threads). Fetch threads wait for the network, decode threads use the cores, and the consumer's
model runs beside them. At most ``decode.prefetch_images`` requests are anywhere between being
pulled and being handed out; of the bytes among them at most :data:`MAX_WAITING_BYTES`, or one
image, wait for a decoder, beside one image that each fetch thread holds. Each decode thread keeps
one process of the cage busy, or decodes itself where there is none.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.cage import Cage
from pipeline.images.decoder import Decoder
from pipeline.images.fetch import Fetcher
from pipeline.images.preprocess import Preprocessing
from pipeline.images.reasons import Failure, Reason

# About 128 photos of 2 MB.
MAX_WAITING_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class KnownImage:
    """What an earlier run made of an image, and of which bytes.

    Attributes:
        content_sha256: Of the file's bytes, in hex.
        width: Pixels of the original, as displayed.
        height: Pixels of the original, as displayed.
        embedding: [D], float32, of length 1.
    """

    content_sha256: str
    width: int
    height: int
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image to load.

    Attributes:
        key: Whose it is; travels with the pixels.
        uri: Where it is.
        content: Its bytes; then ``uri`` is not read.
        text: Its title or description; travels along.
        known: What may be known of its bytes; the loader looks at it through ``recall`` only.
    """

    key: str
    uri: str | None
    content: bytes | None
    text: str | None = None
    known: KnownImage | None = None


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image ready for the model.

    Attributes:
        pixels: uint8 [H, W, 3].
        content_sha256: Of the file's bytes, in hex.
        width: Pixels of the original, as displayed.
        height: Pixels of the original, as displayed.
    """

    pixels: NDArray[np.uint8]
    content_sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An image that could not be fetched or decoded.

    Attributes:
        failure: Why.
        content_sha256: Of the file's bytes, in hex, where there were any.
    """

    failure: Failure
    content_sha256: str | None


@dataclass(frozen=True, slots=True)
class RememberedImage:
    """An image of whose bytes is known what is wanted of them; it was not decoded.

    Attributes:
        content_sha256: Of the file's bytes, in hex.
        known: What ``recall`` gave.
    """

    content_sha256: str
    known: Any


Loaded = LoadedImage | UnreadableImage | RememberedImage
Recall = Callable[[str, ImageRequest], Any]


class ImageLoader:
    """Loads images in order. Connections and decoder processes are kept between calls, threads not.

    Args:
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        preprocessing: The model's input.
        scaled_decoding: Decode JPEGs at the smallest scale that covers the model's input.
        recall: From the hash of an image's bytes and its request to what is known of them, or None.
            Called from several threads.
    """

    def __init__(
        self,
        fetch: FetchConfig,
        decode: DecodeConfig,
        preprocessing: Preprocessing,
        scaled_decoding: bool,
        recall: Recall | None = None,
    ) -> None:
        self._recall = recall
        self._fetch_threads = fetch.threads
        self._decode_threads = decode.threads or _count_cores()
        self._prefetch_images = max(1, decode.prefetch_images)
        decoder = Decoder(
            preprocessing=preprocessing,
            max_pixels=decode.max_pixels,
            cover=max(preprocessing.height, preprocessing.width) if scaled_decoding else None,
        )
        self._decoder: Decoder | Cage = decoder
        if decode.cage:
            self._decoder = Cage(decoder, timeout_s=decode.timeout_s, memory_mb=decode.memory_mb)
        self._fetcher = Fetcher(fetch)
        self._running: set[_Pipeline] = set()

    def load(self, requests: Iterable[ImageRequest]) -> Iterator[tuple[ImageRequest, Loaded]]:
        """Loads images.

        Args:
            requests: Pulled in the caller's thread, as far ahead as ``decode.prefetch_images``.

        Yields:
            One pair for each request, in their order.

        Raises:
            Exception: Whatever ``requests`` raises, at once; images pulled before are dropped.
                The threads have ended by then, as they have after ``close()`` of the generator.
            DecoderError: No decoder can be started.
        """
        pipeline = _Pipeline(
            self._fetcher, self._load_bytes, self._fetch_threads, self._decode_threads
        )
        self._running.add(pipeline)
        window: deque[tuple[ImageRequest, Future[Loaded]]] = deque()
        try:
            for request in requests:
                window.append((request, pipeline.submit(request)))
                if len(window) >= self._prefetch_images:
                    oldest, future = window.popleft()
                    yield oldest, future.result()
            while window:
                oldest, future = window.popleft()
                yield oldest, future.result()
        finally:
            pipeline.close()
            self._running.discard(pipeline)

    def start(self) -> None:
        """Starts a decoder, so that no image waits for it.

        Raises:
            DecoderError: None can be started.
        """
        if isinstance(self._decoder, Cage):
            self._decoder.start()

    def close(self) -> None:
        """Ends the threads of whatever is still being loaded, decoders, and connections."""
        for pipeline in list(self._running):
            pipeline.close()
        if isinstance(self._decoder, Cage):
            self._decoder.close()
        self._fetcher.close()

    def __enter__(self) -> ImageLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load_bytes(self, request: ImageRequest, content: bytes) -> Loaded:
        if not content:
            return UnreadableImage(Failure(Reason.EMPTY, "no bytes"), None)
        sha256 = hashlib.sha256(content).hexdigest()
        known = self._recall(sha256, request) if self._recall is not None else None
        if known is not None:
            return RememberedImage(sha256, known)
        decoded = self._decoder.decode(content)
        if isinstance(decoded, Failure):
            return UnreadableImage(decoded, sha256)
        return LoadedImage(decoded.pixels, sha256, decoded.width, decoded.height)


def _count_cores() -> int:
    # What the process may use, not what the machine has; macOS knows only the latter.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pipeline:
    """The threads of one call of ``load``. Threads start with the first image that needs them."""

    def __init__(
        self,
        fetcher: Fetcher,
        load_bytes: Callable[[ImageRequest, bytes], Loaded],
        fetch_threads: int,
        decode_threads: int,
    ) -> None:
        self._fetcher = fetcher
        self._load_bytes = load_bytes
        self._cancelled = threading.Event()
        self._budget = _ByteBudget(MAX_WAITING_BYTES, self._cancelled)
        self._unsettled: set[Future[Loaded]] = set()
        self._fetching = ThreadPoolExecutor(fetch_threads, thread_name_prefix="image-fetch")
        self._decoding = ThreadPoolExecutor(decode_threads, thread_name_prefix="image-decode")

    def submit(self, request: ImageRequest) -> Future[Loaded]:
        """Starts loading an image. The future ends however the pipeline ends."""
        future: Future[Loaded] = Future()
        self._unsettled.add(future)
        future.add_done_callback(self._unsettled.discard)
        if request.content is not None:
            content = self._fetcher.take(request.content)
            if isinstance(content, Failure):
                future.set_result(UnreadableImage(content, None))
            else:
                self._decoding.submit(_settle, future, self._load_bytes, request, content)
        elif request.uri:
            self._fetching.submit(self._fetch, future, request, request.uri)
        else:
            failure = Failure(Reason.NO_SOURCE, "neither uri nor content")
            future.set_result(UnreadableImage(failure, None))
        return future

    def close(self) -> None:
        """Ends the threads: running fetches within a moment, decodes at their end."""
        self._cancelled.set()
        self._budget.wake()
        self._fetching.shutdown(cancel_futures=True)
        self._decoding.shutdown(cancel_futures=True)
        # Whoever waits for one of these in another thread gets a CancelledError.
        for future in list(self._unsettled):
            future.cancel()

    def _fetch(self, future: Future[Loaded], request: ImageRequest, uri: str) -> None:
        try:
            content = self._fetcher.fetch(uri, cancelled=self._cancelled)
            if isinstance(content, Failure):
                future.set_result(UnreadableImage(content, None))
            elif self._budget.take(len(content)):
                self._decoding.submit(_settle, future, self._load_and_give_back, request, content)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
            future.set_exception(error)

    def _load_and_give_back(self, request: ImageRequest, content: bytes) -> Loaded:
        try:
            return self._load_bytes(request, content)
        finally:
            self._budget.give_back(len(content))


def _settle(
    future: Future[Loaded],
    load: Callable[[ImageRequest, bytes], Loaded],
    request: ImageRequest,
    content: bytes,
) -> None:
    try:
        future.set_result(load(request, content))
    except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
        future.set_exception(error)


class _ByteBudget:
    """Bytes that wait for a decoder.

    What was let in is decoded whatever else happens, so waiting for the budget always ends. One
    image is let in whatever its size.
    """

    def __init__(self, size_bytes: int, cancelled: threading.Event) -> None:
        self._size_bytes = size_bytes
        self._taken_bytes = 0
        self._cancelled = cancelled
        self._changed = threading.Condition()

    def take(self, count: int) -> bool:
        """Waits until ``count`` bytes fit. False when nobody waits for them any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._cancelled.is_set()
                    or self._taken_bytes == 0
                    or self._taken_bytes + count <= self._size_bytes
                )
            )
            if self._cancelled.is_set():
                return False
            self._taken_bytes += count
            return True

    def give_back(self, count: int) -> None:
        with self._changed:
            self._taken_bytes -= count
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
