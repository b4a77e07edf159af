"""Models on the same images, turn by turn: what each makes of them, and how fast it is.

Bytes are fetched before any model sees them, so speed is that of decoding and the model. Models
take turns batch by batch, each first as often as the other, so that what else the machine does
slows both. Shapes: N images, L labels of one model.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.config import DecodeConfig, FetchConfig, InferenceConfig
from pipeline.errors import ManifestError
from pipeline.images.fetch import Fetcher
from pipeline.images.loader import ImageRequest
from pipeline.images.reasons import Failure, Reason, describe_left_out
from pipeline.logs import BarStream
from pipeline.models.bundle import Bundle
from pipeline.models.engine import Outcome
from pipeline.models.serving import make_engine
from pipeline.models.tags import mark_tags

_LOG = logging.getLogger(__name__)

# Images of a turn: long enough to time, short enough for many turns.
_BATCHES_PER_TURN = 2


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model made of the images.

    Attributes:
        scores: [N, L], float64 of the float32 scores.
        tags: [N, L]: what a run would publish.
        images_per_s: Median over the turns but the first, which warms up.
    """

    scores: npt.NDArray[np.float64]
    tags: npt.NDArray[np.bool_]
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the models made of the images that all of them could read.

    Attributes:
        keep: [requests]: images that all could read.
        scores: One for each model.
        left_out: The others, by reason.
    """

    keep: npt.NDArray[np.bool_]
    scores: tuple[Score, ...]
    left_out: Counter[Reason]


def run_trial(
    requests: Iterable[ImageRequest],
    bundles: Sequence[Bundle],
    *,
    inference: InferenceConfig,
    fetch: FetchConfig,
    decode: DecodeConfig,
    total: int,
    progress: bool = False,
) -> Trial:
    """Run models on the same images.

    Args:
        requests: The images.
        bundles: The models, at least one.
        inference: How they are run.
        fetch: How bytes are fetched.
        decode: How bytes become pixels.
        total: Number of the images, for the progress.
        progress: Show progress on stderr.

    Raises:
        ManifestError: Not one image can be read.
        ModelError: A model or its device failed.
    """
    opened = [make_engine(bundle, inference, fetch, decode) for bundle in bundles]
    engines = [engine for engine, _ in opened]
    outcomes: list[list[Outcome]] = [[] for _ in engines]
    speeds: list[list[float]] = [[] for _ in engines]
    bar = tqdm(
        desc="comparing",
        total=total,
        unit="img",
        file=BarStream(),
        dynamic_ncols=True,
        disable=not progress,
    )
    turns = _fetched(requests, fetch, inference.batch_size * _BATCHES_PER_TURN)
    with contextlib.ExitStack() as closing:
        for _, loader in opened:
            closing.enter_context(loader)
        closing.enter_context(bar)
        for number, turn in enumerate(turns):
            ready = [request for request, failure in turn if failure is None]
            order = range(len(engines)) if number % 2 else reversed(range(len(engines)))
            for place in order:
                started = time.perf_counter()
                made = deque(engines[place].run(ready))
                if ready:
                    speeds[place].append(len(ready) / (time.perf_counter() - started))
                outcomes[place] += [
                    Outcome(request.key, failure) if failure else made.popleft()
                    for request, failure in turn
                ]
            bar.update(len(turn))
    readable = [[one.scores is not None for one in made] for made in outcomes]
    keep: npt.NDArray[np.bool_] = np.all(np.array(readable, bool), axis=0)
    left_out = Counter(
        next(made[i].failure.reason for made in outcomes if made[i].failure is not None)  # type: ignore[union-attr]
        for i in np.flatnonzero(~keep)
    )
    if left_out:
        _LOG.warning("%s", describe_left_out(left_out, total=len(keep)))
    if not keep.any():
        raise ManifestError("not one image of the sample can be read", got=dict(left_out))
    scores = []
    for bundle, own, speed in zip(bundles, outcomes, speeds, strict=True):
        rows = np.stack([own[i].scores for i in np.flatnonzero(keep)])  # type: ignore[misc]
        scores.append(
            Score(
                scores=rows.astype(np.float64),
                tags=mark_tags(rows, bundle.taxonomy),
                images_per_s=statistics.median(speed[1:] or speed),
            )
        )
    return Trial(keep=keep, scores=tuple(scores), left_out=left_out)


def _fetched(
    requests: Iterable[ImageRequest], config: FetchConfig, size: int
) -> Iterator[list[tuple[ImageRequest, Failure | None]]]:
    """Turns of requests with their bytes, or with why there are none."""
    fetcher = Fetcher(config)

    def fetch(request: ImageRequest) -> tuple[ImageRequest, Failure | None]:
        if request.content is not None or request.uri is None:
            return request, None
        found = fetcher.fetch(request.uri)
        if isinstance(found, Failure):
            return request, found
        return replace(request, content=found), None

    try:
        with ThreadPoolExecutor(config.threads) as pool:
            stream = iter(requests)
            while turn := list(itertools.islice(stream, size)):
                yield list(pool.map(fetch, turn))
    finally:
        fetcher.close()
