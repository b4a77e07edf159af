"""The decisions that were wrong and most sure of themselves.

Shapes: N images, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.operating_points import Bools


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A tag that should not be, or one that should.

    Attributes:
        image: Index of the image.
        label: Index of the label.
        score: What the model said.
        kind: ``wrong``: tagged, does not hold; ``missed``: holds, not tagged.
    """

    image: int
    label: int
    score: float
    kind: Literal["wrong", "missed"]


def find_mistakes(
    scores: npt.NDArray[np.float32], predicted: Bools, targets: Bools, known: Bools, limit: int
) -> list[Mistake]:
    """The worst mistakes: the surest wrong tags and the most doubted missed ones, in turns.

    Of the missed, those of one label are spread: first each label's worst, then the second worst.
    Otherwise the rarest label, whose scores are lowest, would fill the list. Wrong tags alike.

    Args:
        scores: [N, L].
        predicted: [N, L], which labels became tags.
        targets: [N, L].
        known: [N, L]; pairs that are False are no mistakes.
        limit: At most so many.
    """
    wrong = _spread(scores, predicted & ~targets & known, descending=True)
    missed = _spread(scores, targets & ~predicted & known, descending=False)
    mistakes: list[Mistake] = []
    for place in range(max(len(wrong), len(missed))):
        for kind, found in (("wrong", wrong), ("missed", missed)):
            if place < len(found) and len(mistakes) < limit:
                image, label = found[place]
                mistakes.append(
                    Mistake(
                        image=int(image),
                        label=int(label),
                        score=float(scores[image, label]),
                        kind="wrong" if kind == "wrong" else "missed",
                    )
                )
    return mistakes


def _spread(
    scores: npt.NDArray[np.float32], pairs: Bools, *, descending: bool
) -> npt.NDArray[np.int64]:
    """Pairs as rows (image, label): by their rank within the label, then by score."""
    images, labels = np.nonzero(pairs)
    keys = scores[pairs].astype(np.float64) * (-1.0 if descending else 1.0)
    by_label = np.lexsort((keys, labels))
    sorted_labels = labels[by_label]
    starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
    ranks = np.empty(len(labels), np.int64)
    ranks[by_label] = np.arange(len(labels)) - starts
    order = np.lexsort((keys, ranks))
    return np.column_stack([images[order], labels[order]])
