"""Images of a labelled manifest, scored once by the engine that also tags.

Shapes: N images, L labels, D embedding.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.errors import ManifestError
from pipeline.evaluation.operating_points import Bools
from pipeline.images.reasons import Reason, describe_left_out
from pipeline.logs import BarStream
from pipeline.models.engine import Engine
from pipeline.training.data import LabelledImages
from pipeline.training.splits import Split

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """Images that could be read, in the manifest's order.

    Attributes:
        positions: [N], where each image stands among the manifest's.
        ids: Image ids, N of them.
        splits: [N].
        scores: [N, L], float32, 0 to 1.
        embeddings: [N, D], float32, rows of length 1.
        targets: [N, L].
        known: [N, L].
        left_out: Images of each split that could not be read, by reason.
    """

    positions: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    splits: npt.NDArray[np.str_]
    scores: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]
    targets: Bools
    known: Bools
    left_out: Counter[Reason]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, *splits: Split) -> ScoredImages:
        """The images of some splits only."""
        kept = np.flatnonzero(np.isin(self.splits, splits))
        return ScoredImages(
            positions=self.positions[kept],
            ids=tuple(self.ids[index] for index in kept),
            splits=self.splits[kept],
            scores=self.scores[kept],
            embeddings=self.embeddings[kept],
            targets=self.targets[kept],
            known=self.known[kept],
            left_out=self.left_out,
        )


def score_images(
    images: LabelledImages, splits: set[Split], engine: Engine, *, progress: bool = False
) -> ScoredImages:
    """Score the images of some splits. Unreadable ones are left out, counted and logged.

    Args:
        images: The labelled manifest.
        splits: Which of them.
        engine: Loads, decodes and scores.
        progress: Show progress on stderr.

    Raises:
        ManifestError: None of them can be read.
        ModelError: The model or its device fails.
    """
    wanted = np.flatnonzero(np.isin(images.splits, sorted(splits)))
    kept: list[int] = []
    scores, embeddings = [], []
    left_out: Counter[Reason] = Counter()
    outcomes = tqdm(
        engine.run(images.requests(wanted)),
        desc="scoring",
        total=len(wanted),
        unit="img",
        file=BarStream(),
        dynamic_ncols=True,
        disable=not progress,
    )
    for position, outcome in zip(wanted, outcomes, strict=True):
        if outcome.failure is not None:
            left_out[outcome.failure.reason] += 1
            _LOG.debug("left out %s: %s", outcome.key, outcome.failure.detail)
            continue
        kept.append(int(position))
        scores.append(outcome.scores)
        embeddings.append(outcome.embedding)
    if left_out:
        _LOG.warning("%s", describe_left_out(left_out, total=len(wanted)))
    if not kept:
        raise ManifestError(
            "no image to evaluate can be read",
            where=images.config.path,
            expected=f"images of {', '.join(sorted(splits))}",
            got=f"{len(wanted)} images, none of them readable",
        )
    return ScoredImages(
        positions=np.array(kept, np.int64),
        ids=tuple(images.ids[position] for position in kept),
        splits=images.splits[kept],
        scores=np.stack([row for row in scores if row is not None]),
        embeddings=np.stack([row for row in embeddings if row is not None]),
        targets=images.targets[kept],
        known=images.known[kept],
        left_out=left_out,
    )
