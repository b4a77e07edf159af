"""Which labels stand together, and which are taken for each other.

Shapes: N images, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.operating_points import Bools

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelPair:
    """Two labels and how often they met.

    Attributes:
        first: Index of a label: the one that was missed, or either one.
        second: Index of another: the one that was predicted instead, or either one.
        images: Images on which they met.
        share: Of the first one's misses, or for labels that stand together: how many times as often
            as if they were independent (lift).
    """

    first: int
    second: int
    images: int
    share: float


def find_confusions(predicted: Bools, targets: Bools, known: Bools, limit: int) -> list[LabelPair]:
    """Pairs where the first label holds and was missed while the second was wrongly predicted.

    An image with two misses and two wrong tags counts in four pairs: which was taken for which
    nobody knows.

    Args:
        predicted: [N, L].
        targets: [N, L].
        known: [N, L]; pairs that are False are neither missed nor wrong.
        limit: At most so many.

    Returns:
        Most frequent first, equal ones in the labels' order.
    """
    missed = (targets & known & ~predicted).astype(np.float64)
    wrong = (predicted & known & ~targets).astype(np.float64)
    return _most_frequent(missed.T @ wrong, missed.sum(axis=0)[:, None], limit)


def find_cooccurrences(targets: Bools, known: Bools, limit: int) -> list[LabelPair]:
    """Pairs of labels that hold on the same images, each pair once.

    Args:
        targets: [N, L].
        known: [N, L].
        limit: At most so many.

    Returns:
        Most frequent first, equal ones in the labels' order.
    """
    holds = (targets & known).astype(np.float64)
    counts = holds.sum(axis=0)
    expected = np.outer(counts, counts) / max(1, len(holds))
    return _most_frequent(np.triu(holds.T @ holds, k=1), expected, limit)


def _most_frequent(
    images: npt.NDArray[np.float64], of: npt.NDArray[np.float64], limit: int
) -> list[LabelPair]:
    of = np.broadcast_to(of, images.shape)
    order = np.argsort(-images, axis=None, kind="stable")[:limit]
    return [
        LabelPair(
            int(first),
            int(second),
            int(images[first, second]),
            float(images[first, second] / of[first, second]),
        )
        for first, second in zip(*np.unravel_index(order, images.shape), strict=True)
        if images[first, second] > 0
    ]
