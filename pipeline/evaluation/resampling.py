"""Figures of many weighted sets at once: what the bootstrap needs, without drawing sets anew.

A resample of the images is a weight for each image: how often it was drawn. Sorting is done once;
every figure is then a sum over the sorted pairs. Copies of an image share a rank, as equal scores
do in an average precision.

Shapes: N images, L labels, M pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.calibration_error import find_bins
from pipeline.evaluation.decisions import DecisionCounts
from pipeline.evaluation.operating_points import Bools, Floats

# Weighted pairs that are in memory at once.
_MOST_NUMBERS = 4_000_000


def draw_weights(images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Weights of the set itself, then of resamples of its images with replacement.

    Args:
        images: N, at least 1.
        resamples: How many.
        seed: The same seed gives the same resamples.

    Yields:
        [r, N] at a time; 1 + ``resamples`` rows in all, each with sum N, the first of ones.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _MOST_NUMBERS // images)
    yield np.ones((1, images))
    for start in range(0, resamples, rows):
        drawn = [
            np.bincount(generator.integers(0, images, images), minlength=images)
            for _ in range(min(rows, resamples - start))
        ]
        yield np.stack(drawn).astype(np.float64)


class WeightedRanking:
    """Pairs sorted by score, ready for any weights of their images.

    Args:
        scores: [M], finite.
        positive: [M].
        images: [M], index of each pair's image.
        tied: Equal scores share a threshold (average precision). Otherwise they keep their order
            (GAP).
        positives_of: [N], positives of each image, those outside the M pairs included. None: those
            among the pairs.
    """

    def __init__(
        self,
        scores: Floats,
        positive: Bools,
        images: npt.NDArray[np.int64],
        *,
        tied: bool,
        positives_of: Floats | None = None,
    ) -> None:
        order = np.argsort(-scores, kind="stable")
        self._images = images[order]
        self._hits = positive[order].astype(np.float64)
        ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
        self._ends = ends if tied else np.arange(len(order))
        self._positives_of = positives_of

    def average_precision(self, weights: Floats) -> Floats:
        """[R]; NaN where a resample has no positive.

        Args:
            weights: [R, N].
        """
        return self._measure(weights, None)

    def recall_at(self, weights: Floats, precision: float) -> Floats:
        """Largest recall at a threshold of at least this precision, [R].

        Args:
            weights: [R, N].
            precision: 0 to 1.
        """
        return self._measure(weights, precision)

    def _measure(self, weights: Floats, precision: float | None) -> Floats:
        """Average precision, or the recall at a precision, of a few resamples at a time."""
        results = np.full(len(weights), np.nan)
        if not len(self._images):
            return results
        rows = max(1, _MOST_NUMBERS // len(self._images))
        for start in range(0, len(weights), rows):
            part = weights[start : start + rows]
            drawn = part[:, self._images]
            taken = np.cumsum(drawn, axis=1)[:, self._ends]
            hits = np.cumsum(drawn * self._hits, axis=1)[:, self._ends]
            positives = hits[:, -1] if self._positives_of is None else part @ self._positives_of
            precisions = hits / np.maximum(taken, 1)
            if precision is None:
                figures = (precisions * np.diff(hits, axis=1, prepend=0.0)).sum(axis=1)
            else:
                figures = np.where((precisions >= precision) & (taken > 0), hits, 0.0).max(axis=1)
            results[start : start + rows] = np.where(
                positives > 0, figures / np.maximum(positives, 1), np.nan
            )
        return results


def rank_pooled(
    scores: Floats, targets: Bools, known: Bools, *, k: int | None = None, tied: bool = False
) -> WeightedRanking:
    """The pooled pairs of all images and labels.

    Args:
        scores: [N, L], finite.
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
        k: Each image's k best known pairs only, as for GAP@k. None: all.
        tied: See :class:`WeightedRanking`.
    """
    ranked = np.where(known, scores, -np.inf)
    best = np.argsort(-ranked, axis=1, kind="stable")[:, :k]
    counted = np.take_along_axis(known, best, axis=1)
    images = np.broadcast_to(np.arange(len(scores))[:, None], best.shape)
    return WeightedRanking(
        np.take_along_axis(ranked, best, axis=1)[counted],
        np.take_along_axis(targets, best, axis=1)[counted],
        images[counted],
        tied=tied,
        positives_of=(targets & known).sum(axis=1).astype(np.float64),
    )


def rank_labels(scores: Floats, targets: Bools, known: Bools) -> list[WeightedRanking]:
    """The pairs of each label, equal scores tied.

    Args:
        scores: [N, L], finite.
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
    """
    rankings = []
    for column in range(scores.shape[1]):
        images = np.flatnonzero(known[:, column])
        rankings.append(
            WeightedRanking(scores[images, column], targets[images, column], images, tied=True)
        )
    return rankings


def weigh_decisions(
    weights: Floats, predicted: Bools, targets: Bools, known: Bools
) -> DecisionCounts:
    """Decisions counted with weights, each [R, L].

    Args:
        weights: [R, N].
        predicted: [N, L].
        targets: [N, L].
        known: [N, L].
    """

    def summed(pairs: Bools) -> Floats:
        return weights @ pairs.astype(np.float64)

    return DecisionCounts(
        hits=summed(predicted & targets & known),
        predicted=summed(predicted & known),
        positives=summed(targets & known),
    )


class WeightedCalibration:
    """Pairs in bins of equal mass, made once for the whole set, ready for any weights.

    Args:
        scores: [N, L], 0 to 1.
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
        bins: At least 1.
    """

    def __init__(self, scores: Floats, targets: Bools, known: Bools, bins: int) -> None:
        images, _ = np.nonzero(known)
        self._surplus = np.zeros((len(scores), bins))
        self._pairs = np.zeros((len(scores), bins))
        if len(images):
            places = find_bins(scores[known], bins)
            np.add.at(self._surplus, (images, places), targets[known] - scores[known])
            np.add.at(self._pairs, (images, places), 1.0)

    def error(self, weights: Floats) -> Floats:
        """Expected calibration error, [R]; NaN where nothing is known.

        Args:
            weights: [R, N].
        """
        pairs = (weights @ self._pairs).sum(axis=1)
        surplus = np.abs(weights @ self._surplus).sum(axis=1)
        return np.asarray(np.where(pairs > 0, surplus / np.maximum(pairs, 1), np.nan))
