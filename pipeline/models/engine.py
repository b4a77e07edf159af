"""Images in, outcomes out: a loader and a predictor joined, without Spark and without Java.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipeline.config import DecodeConfig, FetchConfig, InferenceConfig, ModelConfig
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage, UnreadableImage
from pipeline.images.reasons import Failure
from pipeline.models.bundle import Bundle
from pipeline.models.device import choose_device
from pipeline.models.predictor import Prediction, Predictor
from pipeline.models.scoring import FloatArray

# A partial batch goes ahead once so many results wait for it, failed images included.
_WAITING_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image.

    Attributes:
        key: The request's key.
        failure: Why there is no result; None where there is one.
        content_sha256: Hex digest of the image's bytes; None where they could not be had.
        width: Of the original, as displayed, in pixels; None for a failure.
        height: As ``width``.
        scores: [L], float32, 0 to 1, in the taxonomy's order; None for a failure.
        embedding: [D], float32, of length 1; None for a failure.
        modality_weights: Task to modality to weight; None for models of one modality.
        text_cut: Whether the text was cut; None where no text is read.
    """

    key: str
    failure: Failure | None = None
    content_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    scores: FloatArray | None = None
    embedding: FloatArray | None = None
    modality_weights: Mapping[str, Mapping[str, float]] | None = None
    text_cut: bool | None = None


class Loader(Protocol):
    """What the engine needs of :class:`pipeline.images.loader.ImageLoader`."""

    def load(
        self, requests: Iterable[ImageRequest]
    ) -> Iterator[tuple[ImageRequest, LoadedImage | UnreadableImage]]:
        """One result for each request, in order."""
        ...


_Loaded = tuple[ImageRequest, LoadedImage | UnreadableImage]


class Engine:
    """Tags images: one outcome for each request, in order.

    Args:
        predictor: The loaded model.
        loader: Fetches and decodes ahead of the model.
        batch_size: Images per forward pass, at least 1.
    """

    def __init__(self, predictor: Predictor, loader: Loader, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.predictor = predictor
        self.loader = loader
        self.batch_size = batch_size
        self._most_waiting = _WAITING_BATCHES * batch_size
        # On a GPU one batch computes while the next one is put together.
        self._in_flight = 1 if predictor.device.type == "cuda" else 0

    def run(self, requests: Iterable[ImageRequest]) -> Iterator[Outcome]:
        """Tag a stream of images.

        Batches are formed across whatever the caller yields; images that failed take no place in
        them. Requests are pulled in the caller's thread, no further ahead than the loader looks
        plus the batches that wait.

        Args:
            requests: Any number, keys need not be unique.

        Yields:
            One outcome for each request, in order.

        Raises:
            ModelError: If the model or its device fails; that is no image's fault.
        """
        batch: list[_Loaded] = []
        n_readable = 0
        started: deque[Callable[[], list[Outcome]]] = deque()
        loaded = self.loader.load(requests)
        try:
            for item in loaded:
                batch.append(item)
                n_readable += isinstance(item[1], LoadedImage)
                if n_readable < self.batch_size and len(batch) < self._most_waiting:
                    continue
                started.append(self._start(batch))
                batch, n_readable = [], 0
                while len(started) > self._in_flight:
                    yield from started.popleft()()
            started.append(self._start(batch))
            while started:
                yield from started.popleft()()
        finally:
            if isinstance(loaded, Generator):
                loaded.close()

    def _start(self, batch: list[_Loaded]) -> Callable[[], list[Outcome]]:
        """Queue a batch on the device; the returned call waits for its outcomes."""
        outcomes = [_without_results(request, image) for request, image in batch]
        readable = [
            (place, request, image)
            for place, (request, image) in enumerate(batch)
            if isinstance(image, LoadedImage)
        ]
        if not readable:
            return lambda: outcomes
        pixels = np.stack([image.pixels for _, _, image in readable])
        wait = self.predictor.submit(pixels, [request.text for _, request, _ in readable])
        places = [place for place, _, _ in readable]

        def finish() -> list[Outcome]:
            prediction = wait()
            for row, place in enumerate(places):
                outcomes[place] = _with_results(outcomes[place], prediction, row)
            return outcomes

        return finish


def make_engine(
    bundle: Bundle,
    inference: ModelConfig | InferenceConfig,
    fetch: FetchConfig,
    decode: DecodeConfig,
    *,
    device: str | None = None,
) -> tuple[Engine, ImageLoader]:
    """An engine for a bundle, and its loader, which is to be closed where the process goes on.

    Args:
        bundle: The model.
        inference: How it is run.
        fetch: How bytes are fetched.
        decode: How bytes become pixels.
        device: In torch's words. Default: what ``inference`` asks for.

    Raises:
        BundleError: The model cannot be loaded.
        DeviceError: A GPU was asked for and there is none.
    """
    predictor = Predictor.from_bundle(
        bundle,
        device=device or choose_device(inference.device, ()),
        precision=inference.precision,
        scaled_decoding=inference.scaled_decoding,
        threads=inference.threads,
    )
    loader = ImageLoader(fetch, decode, bundle.preprocessing, inference.scaled_decoding)
    return Engine(predictor, loader, inference.batch_size), loader


def _without_results(request: ImageRequest, image: LoadedImage | UnreadableImage) -> Outcome:
    if isinstance(image, UnreadableImage):
        return Outcome(request.key, image.failure, image.content_sha256)
    return Outcome(request.key, None, image.content_sha256, image.width, image.height)


def _with_results(outcome: Outcome, prediction: Prediction, row: int) -> Outcome:
    weights, text_cut = prediction.modality_weights, prediction.text_cut
    return replace(
        outcome,
        scores=prediction.scores[row],
        embedding=prediction.embeddings[row],
        modality_weights=None if weights is None else weights[row],
        text_cut=None if text_cut is None else text_cut[row],
    )
