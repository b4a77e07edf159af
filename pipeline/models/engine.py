"""Images in, outcomes out: a loader and a predictor joined, without Spark and without Java.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipeline.images.loader import ImageRequest, LoadedImage, UnreadableImage
from pipeline.images.reasons import Failure
from pipeline.models.predictor import Prediction, Predictor, Source
from pipeline.models.scoring import FloatArray
from pipeline.models.texts import has_text

# A partial batch goes ahead once so many results wait for it, failed images included.
_WAITING_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image.

    Attributes:
        key: The request's key.
        failure: Why the image could not be read; None where it was. Then there is no result,
            unless one was made from the text alone.
        content_sha256: Hex digest of the image's bytes; None where they could not be had.
        width: Of the original, as displayed, in pixels; None for a failure.
        height: As ``width``.
        scores: [L], float32, 0 to 1, in the taxonomy's order; None without a result.
        embedding: [D], float32, of length 1; None for a failure.
        source: What the scores were made from; None without them.
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
    source: Source | None = None
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
        tag_without_image: Predict from the text where the image cannot be read, if the model reads
            texts and there is one. The failure stays.
    """

    def __init__(
        self,
        predictor: Predictor,
        loader: Loader,
        batch_size: int,
        *,
        tag_without_image: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.predictor = predictor
        self.loader = loader
        self.batch_size = batch_size
        self._reads_texts_alone = tag_without_image and predictor.reads_text
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
        readable = [place for place, one in enumerate(batch) if isinstance(one[1], LoadedImage)]
        described = [
            place
            for place, (request, image) in enumerate(batch)
            if isinstance(image, UnreadableImage) and self._can_read(request)
        ]
        waiting: list[tuple[list[int], Callable[[], Prediction]]] = []
        if readable:
            images = [image for _, image in batch if isinstance(image, LoadedImage)]
            pixels = np.stack([image.pixels for image in images])
            waiting.append((readable, self.predictor.submit(pixels, _texts(batch, readable))))
        if described:
            waiting.append((described, self.predictor.submit(None, _texts(batch, described))))

        def finish() -> list[Outcome]:
            for places, wait in waiting:
                prediction = wait()
                for row, place in enumerate(places):
                    outcomes[place] = _with_results(outcomes[place], prediction, row)
            return outcomes

        return finish

    def _can_read(self, request: ImageRequest) -> bool:
        return self._reads_texts_alone and has_text(request.text)


def _texts(batch: list[_Loaded], places: list[int]) -> list[str | None]:
    return [batch[place][0].text for place in places]


def _without_results(request: ImageRequest, image: LoadedImage | UnreadableImage) -> Outcome:
    if isinstance(image, UnreadableImage):
        return Outcome(request.key, image.failure, image.content_sha256)
    return Outcome(request.key, None, image.content_sha256, image.width, image.height)


def _with_results(outcome: Outcome, prediction: Prediction, row: int) -> Outcome:
    embeddings, sources = prediction.embeddings, prediction.sources
    weights, text_cut = prediction.modality_weights, prediction.text_cut
    return replace(
        outcome,
        scores=prediction.scores[row],
        embedding=None if embeddings is None else embeddings[row],
        source="image" if sources is None else sources[row],
        modality_weights=None if weights is None else weights[row],
        text_cut=None if text_cut is None else text_cut[row],
    )
