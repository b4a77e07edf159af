"""Images in, outcomes out: a loader and a predictor joined, without Spark and without Java.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Protocol

import numpy as np

from pipeline.images.loader import (
    ImageRequest,
    KnownImage,
    Loaded,
    LoadedImage,
    RememberedImage,
)
from pipeline.images.reasons import Failure
from pipeline.models.memory import Memory, Remembered, name_of
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

    def load(self, requests: Iterable[ImageRequest]) -> Iterator[tuple[ImageRequest, Loaded]]:
        """One result for each request, in order."""
        ...


_Loaded = tuple[ImageRequest, Loaded]


@dataclass(slots=True)
class _Batch:
    """Images that become outcomes together.

    Attributes:
        items: Requests and what was loaded.
        firsts: Names of results to the places of the images that the model has to see.
        repeats: Places of images with the bytes (and text) of an earlier one, and its place.
    """

    items: list[_Loaded] = field(default_factory=list)
    firsts: dict[str, int] = field(default_factory=dict)
    repeats: dict[int, int] = field(default_factory=dict)

    def add(self, request: ImageRequest, image: Loaded, name: str | None) -> None:
        """Add an image; ``name`` is that of the result it needs, None where it needs none."""
        place = len(self.items)
        self.items.append((request, image))
        if name is not None and self.firsts.setdefault(name, place) != place:
            self.repeats[place] = self.firsts[name]


class Engine:
    """Tags images: one outcome for each request, in order.

    Args:
        predictor: The loaded model.
        loader: Fetches and decodes ahead of the model.
        batch_size: Images per forward pass, at least 1.
        tag_without_image: Predict from the text where the image cannot be read, if the model reads
            texts and there is one. The failure stays.
        memory: What is known of images by their bytes; None: of other batches nothing is.
    """

    def __init__(
        self,
        predictor: Predictor,
        loader: Loader,
        batch_size: int,
        *,
        tag_without_image: bool = False,
        memory: Memory | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.predictor = predictor
        self.loader = loader
        self.batch_size = batch_size
        self._reads_texts_alone = tag_without_image and predictor.reads_text
        self._memory = memory
        self._most_waiting = _WAITING_BATCHES * batch_size
        # On a GPU one batch computes while the next one is put together.
        self._in_flight = 1 if predictor.device.type == "cuda" else 0

    def run(self, requests: Iterable[ImageRequest]) -> Iterator[Outcome]:
        """Tag a stream of images.

        Batches are formed across whatever the caller yields; images that failed, or whose bytes
        are known, take no place in them. Requests are pulled in the caller's thread, no further
        ahead than the loader looks plus the batches that wait.

        Args:
            requests: Any number, keys need not be unique.

        Yields:
            One outcome for each request, in order.

        Raises:
            ModelError: If the model or its device fails; that is no image's fault.
        """
        batch = _Batch()
        started: deque[Callable[[], list[Outcome]]] = deque()
        loaded = self.loader.load(requests)
        try:
            for request, image in loaded:
                batch.add(request, *self._look_up(request, image))
                if len(batch.firsts) < self.batch_size and len(batch.items) < self._most_waiting:
                    continue
                started.append(self._start(batch))
                batch = _Batch()
                while len(started) > self._in_flight:
                    yield from started.popleft()()
            started.append(self._start(batch))
            while started:
                yield from started.popleft()()
        finally:
            if isinstance(loaded, Generator):
                loaded.close()

    def _look_up(self, request: ImageRequest, image: Loaded) -> tuple[Loaded, str | None]:
        """The image, or what is known of it by now; and the name of the result it needs."""
        if not isinstance(image, LoadedImage):
            return image, None
        name = name_result(self.predictor, image.content_sha256, request)
        # The loader asked before; it may have been encoded since.
        known = self._memory.recall(name) if self._memory is not None else None
        if known is not None:
            return RememberedImage(image.content_sha256, known), None
        return image, name

    def _start(self, batch: _Batch) -> Callable[[], list[Outcome]]:
        """Queue a batch on the device; the returned call waits for its outcomes."""
        items = batch.items
        outcomes = [_without_results(request, image) for request, image in items]
        seen = list(batch.firsts.values())
        described = [
            place
            for place, (request, _) in enumerate(items)
            if outcomes[place].failure is not None and self._can_read(request)
        ]
        waiting: list[tuple[list[int], Callable[[], Prediction]]] = []
        if seen:
            images = (items[place][1] for place in seen)
            pixels = np.stack([image.pixels for image in images if isinstance(image, LoadedImage)])
            waiting.append((seen, self.predictor.submit(pixels, _texts(items, seen))))
        if described:
            waiting.append((described, self.predictor.submit(None, _texts(items, described))))
        known = {place: one for place, (_, image) in enumerate(items) if (one := _known(image))}
        if known:
            vectors = np.stack([one.embedding for one in known.values()])
            waiting.append((list(known), partial(self.predictor.predict_from_embeddings, vectors)))

        def finish() -> list[Outcome]:
            for places, wait in waiting:
                prediction = wait()
                for row, place in enumerate(places):
                    outcomes[place] = _with_results(outcomes[place], prediction, row)
            for place, first in batch.repeats.items():
                outcomes[place] = replace(outcomes[first], key=outcomes[place].key)
            if self._memory is not None:
                found = ((name, outcomes[place]) for name, place in batch.firsts.items())
                self._memory.remember((name, _to_remember(outcome)) for name, outcome in found)
            return outcomes

        return finish

    def _can_read(self, request: ImageRequest) -> bool:
        return self._reads_texts_alone and has_text(request.text)


def name_result(predictor: Predictor, content_sha256: str, request: ImageRequest) -> str:
    """What a memory knows the result of an image by."""
    return name_of(content_sha256, request.text if predictor.reads_text else None)


def _known(image: Loaded) -> KnownImage | None:
    """What the tables know of an image's bytes, if that is all its outcome needs."""
    if isinstance(image, RememberedImage) and isinstance(image.known, KnownImage):
        return image.known
    return None


def _texts(items: list[_Loaded], places: list[int]) -> list[str | None]:
    return [items[place][0].text for place in places]


def _without_results(request: ImageRequest, image: Loaded) -> Outcome:
    if isinstance(image, LoadedImage):
        return Outcome(request.key, None, image.content_sha256, image.width, image.height)
    stored = _known(image)
    if stored is not None:
        sha256 = stored.content_sha256
        return Outcome(request.key, None, sha256, stored.width, stored.height)
    if isinstance(image, RememberedImage):
        known: Remembered = image.known
        return Outcome(
            request.key,
            content_sha256=image.content_sha256,
            width=known.width,
            height=known.height,
            scores=known.scores,
            embedding=known.embedding,
            source=known.source,
            modality_weights=known.modality_weights,
            text_cut=known.text_cut,
        )
    return Outcome(request.key, image.failure, image.content_sha256)


def _to_remember(outcome: Outcome) -> Remembered:
    """What another image of the same bytes (and text) needs to know."""
    known = {one.name: getattr(outcome, one.name) for one in fields(Remembered)}
    return Remembered(**known)


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
