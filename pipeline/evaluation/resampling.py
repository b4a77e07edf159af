"""Figures of many weighted sets at once: what the bootstrap needs, without drawing sets anew.

A resample of the images is a weight for each image: how often it was drawn. Sorting is done once;
every figure is then a sum over the sorted pairs. Copies of an image share a rank, as equal scores
do in an average precision.

Shapes: N images, L labels, M pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

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

    Only ranks with a hit matter: between two of them precision falls and recall stays. So pairs are
    summed from hit to hit, by one sparse product, before anything is accumulated.

    Args:
        scores: [M], finite.
        positive: [M].
        images: [M], index of each pair's image.
        n_images: N.
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
        n_images: int,
        *,
        tied: bool,
        positives_of: Floats | None = None,
    ) -> None:
        order = np.argsort(-scores, kind="stable")
        hit, image = positive[order], images[order]
        ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
        ends = ends if tied else np.arange(len(order))
        # ranks with a hit: the first threshold at or after each
        ends = np.unique(ends[np.searchsorted(ends, np.flatnonzero(hit))])
        places = np.searchsorted(ends, np.arange(len(order)))
        before = places < len(ends)
        shape = (len(ends), n_images)
        self._taken = _count_pairs(places[before], image[before], shape)
        self._hits = _count_pairs(places[hit], image[hit], shape)
        self._positives_of = (
            np.bincount(image[hit], minlength=n_images).astype(np.float64)
            if positives_of is None
            else positives_of
        )

    def average_precision(self, weights: Floats) -> Floats:
        """[R]; NaN where a resample has no positive.

        Args:
            weights: [R, N].
        """
        return self.measure(weights, 0.0)[0]

    def measure(self, weights: Floats, precision: float) -> tuple[Floats, Floats]:
        """Average precision, and the largest recall at a threshold of at least this precision.

        Args:
            weights: [R, N].
            precision: 0 to 1.

        Returns:
            [R] each; NaN where a resample has no positive.
        """
        positives = weights @ self._positives_of
        sums, best = np.zeros(len(weights)), np.zeros(len(weights))
        rows = max(1, _MOST_NUMBERS // max(1, self._taken.shape[0]))
        for start in range(0, len(weights), rows):
            part = slice(start, start + rows)
            drawn = weights[part].T
            gains = self._hits @ drawn
            hits = np.cumsum(gains, axis=0)
            precisions = hits / np.maximum(np.cumsum(self._taken @ drawn, axis=0), 1)
            sums[part] = (precisions * gains).sum(axis=0)
            best[part] = np.where(precisions >= precision, hits, 0.0).max(axis=0, initial=0.0)
        defined = positives > 0
        divisor = np.where(defined, positives, np.nan)
        return sums / divisor, best / divisor


def _count_pairs(
    places: npt.NDArray[np.int64], images: npt.NDArray[np.int64], shape: tuple[int, int]
) -> Any:
    """Sparse [T, N]: pairs of each image at each place."""
    return sparse.csr_array((np.ones(len(places)), (places, images)), shape=shape)


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
        len(scores),
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
            WeightedRanking(
                scores[images, column], targets[images, column], images, len(scores), tied=True
            )
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
