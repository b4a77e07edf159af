"""How well scores rank: GAP, macro and micro mean average precision, recall at a precision.

Everything is numpy in float64 and knows nothing of models. Scores may be on any monotonous scale
(probabilities, logits, cosines), targets are 0 or 1, and pairs nobody checked can be left out with
``known``. A figure that is not defined (no positive anywhere) is NaN, never 0 and never a warning.

Shapes: N images, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.operating_points import Bools, Floats, find_operating_points

_ACCURACY = "accuracy."


@dataclass(frozen=True)
class MacroMap:
    """Mean of the labels' average precisions.

    Attributes:
        value: Mean over the labels with enough positives; NaN where no label has them.
        labels_without_positive: Labels that no image has; never part of the mean.
        labels: Labels in the mean.
    """

    value: float
    labels_without_positive: int
    labels: int


@dataclass(frozen=True)
class RankingMetrics:
    """The figures a training and a demo report for one set of images.

    Attributes:
        images: Images in the set.
        gap: Global average precision over all labels.
        gap_at_10: Global average precision over each image's ten best labels.
        macro_map: Mean of the labels' average precisions, over labels with a positive.
        labels_without_positive: Labels left out of ``macro_map``.
        accuracy: Of tasks with one label to an image, by task id, where they are told apart.
    """

    images: int
    gap: float
    gap_at_10: float
    macro_map: float
    labels_without_positive: int
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures for JSON: what is not defined is None."""
        figures: dict[str, float | int] = {
            "images": self.images,
            "gap": self.gap,
            "gap_at_10": self.gap_at_10,
            "macro_map": self.macro_map,
            "labels_without_positive": self.labels_without_positive,
            **{f"{_ACCURACY}{task}": value for task, value in self.accuracy.items()},
        }
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> RankingMetrics:
        """The inverse of :meth:`to_dict`."""
        figures: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in told.items()
        }
        accuracy = {
            name.removeprefix(_ACCURACY): figures.pop(name)
            for name in told
            if name.startswith(_ACCURACY)
        }
        return cls(**figures, accuracy=accuracy)


def make_ranking_metrics(
    scores: npt.ArrayLike, targets: npt.ArrayLike, known: npt.ArrayLike | None = None
) -> RankingMetrics:
    """Compute all ranking figures of one set of images.

    Args:
        scores: [N, L], finite.
        targets: [N, L] of 0 and 1.
        known: [N, L] bool; pairs that are False count nowhere. None: every pair counts.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    macro = macro_map(scores, targets, known)
    return RankingMetrics(
        images=len(np.asarray(scores)),
        gap=gap(scores, targets, known=known),
        gap_at_10=gap(scores, targets, k=10, known=known),
        macro_map=macro.value,
        labels_without_positive=macro.labels_without_positive,
    )


def measure_accuracy(
    scores: npt.ArrayLike, targets: npt.ArrayLike, known: npt.ArrayLike | None = None
) -> float:
    """Share of images whose best label is right, in a task with one label to an image.

    Args:
        scores: [N, L] of the task, finite. Of equal ones the first is best.
        targets: [N, L] of 0 and 1. Images without a known positive count nowhere.
        known: [N, L] bool. None: every pair is known.

    Returns:
        Between 0 and 1; NaN where no image counts.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    right, counts = mark_right(scores, targets, known)
    return float(right[counts].mean()) if counts.any() else math.nan


def mark_right(
    scores: npt.ArrayLike, targets: npt.ArrayLike, known: npt.ArrayLike | None = None
) -> tuple[Bools, Bools]:
    """Of which images the best label is right, and which images count, [N] each.

    Args:
        scores: [N, L] of the task, finite. Of equal ones the first is best.
        targets: [N, L] of 0 and 1. Images without a known positive do not count.
        known: [N, L] bool. None: every pair is known.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    values, positive, counted = _checked(scores, targets, known)
    hits = positive & counted
    right: Bools = np.take_along_axis(hits, values.argmax(axis=1)[:, None], axis=1)[:, 0]
    counts: Bools = np.asarray(hits.any(axis=1))
    return right, counts


def gap(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    k: int | None = None,
    known: npt.ArrayLike | None = None,
) -> float:
    """Global average precision as YouTube-8M defines it (arXiv 1609.08675, section 4.1.3).

    Pool every image's k best (score, hit) pairs, sort the pool by score, and divide the sum of the
    precision at each hit by all positives of the set, those outside the k best included. Equal
    scores keep the order of images, then labels (YouTube-8M shuffles them with a fixed seed).

    Args:
        scores: [N, L], finite.
        targets: [N, L] of 0 and 1.
        k: Labels taken from each image, at least 1. None: all of them.
        known: [N, L] bool; pairs that are False take no place and count nowhere.

    Returns:
        Between 0 and 1; NaN where the set has no positive.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    values, positive, counted = _checked(scores, targets, known)
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    positives = int(np.count_nonzero(positive & counted))
    if positives == 0:
        return math.nan
    ranked = np.where(counted, values, -np.inf)
    best = np.argsort(-ranked, axis=1, kind="stable")[:, :k]
    pooled_counted = np.take_along_axis(counted, best, axis=1).ravel()
    pooled_scores = np.take_along_axis(ranked, best, axis=1).ravel()[pooled_counted]
    pooled_hits = np.take_along_axis(positive, best, axis=1).ravel()[pooled_counted]
    hits = pooled_hits[np.argsort(-pooled_scores, kind="stable")]
    precision = np.cumsum(hits, dtype=np.float64) / np.arange(1, len(hits) + 1, dtype=np.float64)
    return float(precision[hits].sum() / positives)


def average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Average precision of one label: sum over thresholds of precision times gain in recall.

    Equal scores share one threshold, as in scikit-learn's ``average_precision_score``.

    Args:
        scores: [N], finite.
        targets: [N] of 0 and 1.

    Returns:
        Between 0 and 1; NaN where no image is positive.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    values, positive, _ = _checked(
        np.asarray(scores)[:, None], np.asarray(targets)[:, None], known=None
    )
    return _average_precision(values[:, 0], positive[:, 0])


def average_precisions(
    scores: npt.ArrayLike, targets: npt.ArrayLike, known: npt.ArrayLike | None = None
) -> Floats:
    """Average precision of every label, [L]; NaN for labels without a positive.

    Args:
        scores: [N, L], finite.
        targets: [N, L] of 0 and 1.
        known: [N, L] bool; pairs that are False count nowhere.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    values, positive, counted = _checked(scores, targets, known)
    columns = range(values.shape[1])
    return np.array(
        [_average_precision(values[counted[:, c], c], positive[counted[:, c], c]) for c in columns],
        dtype=np.float64,
    )


def macro_map(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    known: npt.ArrayLike | None = None,
    *,
    min_positives: int = 1,
) -> MacroMap:
    """Mean of the labels' average precisions over the labels with enough positives.

    The MuMIC paper states it over its 32 majority classes; from how many positives on a class is
    one of the majority is ours.

    Args:
        scores: [N, L], finite.
        targets: [N, L] of 0 and 1.
        known: [N, L] bool; pairs that are False count nowhere.
        min_positives: Known positives from which on a label counts, at least 1.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    by_label = average_precisions(scores, targets, known)
    positives = count_positives(targets, known)
    counts = positives >= max(1, min_positives)
    return MacroMap(
        value=float(by_label[counts].mean()) if counts.any() else math.nan,
        labels_without_positive=int(np.count_nonzero(positives == 0)),
        labels=int(np.count_nonzero(counts)),
    )


def micro_map(
    scores: npt.ArrayLike, targets: npt.ArrayLike, known: npt.ArrayLike | None = None
) -> float:
    """Average precision of all pairs pooled; equal scores share a threshold.

    Equals ``gap`` over all labels where no two scores are equal.

    Args:
        scores: [N, L], finite.
        targets: [N, L] of 0 and 1.
        known: [N, L] bool; pairs that are False count nowhere.

    Returns:
        Between 0 and 1; NaN where the set has no positive.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    values, positive, counted = _checked(scores, targets, known)
    return _average_precision(values[counted], positive[counted])


def recalls_at_precision(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    precision: float,
    known: npt.ArrayLike | None = None,
) -> Floats:
    """Largest recall of each label at a threshold of at least this precision, [L].

    0 where no threshold reaches it, NaN for labels without a positive.

    Args:
        scores: [N, L], finite.
        targets: [N, L] of 0 and 1.
        precision: 0 to 1.
        known: [N, L] bool; pairs that are False count nowhere.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    values, positive, counted = _checked(scores, targets, known)
    found = np.full(values.shape[1], math.nan)
    for c in range(values.shape[1]):
        points = find_operating_points(values[counted[:, c], c], positive[counted[:, c], c])
        if points.positives:
            found[c] = float(points.recall[points.precision >= precision].max(initial=0.0))
    return found


def count_positives(
    targets: npt.ArrayLike, known: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Known positives of every label, [L].

    Args:
        targets: [N, L] of 0 and 1.
        known: [N, L] bool; pairs that are False count nowhere.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    _, positive, counted = _checked(np.zeros_like(np.asarray(targets, np.float64)), targets, known)
    return np.asarray((positive & counted).sum(axis=0), np.int64)


def label_frequencies(targets: npt.ArrayLike, known: npt.ArrayLike | None = None) -> Floats:
    """Share of positives among the known pairs of every label, [L]; 0 where none is known.

    Given as the scores of every image this is the baseline a model has to beat.

    Args:
        targets: [N, L] of 0 and 1.
        known: [N, L] bool; pairs that are False count nowhere.

    Raises:
        ValueError: Shapes differ, or a value is not what is said above.
    """
    _, positive, counted = _checked(np.zeros_like(np.asarray(targets, np.float64)), targets, known)
    checked = counted.sum(axis=0)
    return np.asarray((positive & counted).sum(axis=0) / np.maximum(checked, 1), np.float64)


def _average_precision(scores: Floats, positive: Bools) -> float:
    points = find_operating_points(scores, positive)
    if points.positives == 0:
        return math.nan
    gains = np.diff(points.hits, prepend=0.0)
    return float(np.sum(points.precision * gains) / points.positives)


def _checked(
    scores: npt.ArrayLike, targets: npt.ArrayLike, known: npt.ArrayLike | None
) -> tuple[Floats, Bools, Bools]:
    values = np.asarray(scores, dtype=np.float64)
    raw: npt.NDArray[Any] = np.asarray(targets)
    counted = np.ones(values.shape, bool) if known is None else np.asarray(known, dtype=bool)
    if values.ndim != 2 or raw.shape != values.shape or counted.shape != values.shape:  # noqa: PLR2004
        raise ValueError(
            f"expected scores, targets and known of one shape [N, L], "
            f"got {values.shape}, {raw.shape}, {counted.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    positive = raw.astype(bool)
    if not np.array_equal(raw, positive):
        raise ValueError("expected targets of 0 and 1")
    return values, positive, counted
