"""A threshold for each label, chosen on validation images.

A threshold that is best on a few images looks better there than it is elsewhere, most of all for
rare labels. So (all of this is ours) each label's precision and recall at a threshold are drawn
towards those of all labels pooled, by as many imagined pairs as ``prior_positives`` says; a
precision target has to be met by a lower bound, and by more than a few images. A label without a
positive gets the threshold that all labels together would have. Knows nothing of other splits: what
it is given is all it reads. How the constants were found: docs/decisions/thresholds.md.

Shapes: N images, L labels, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.config import CalibrationConfig
from pipeline.evaluation.operating_points import Bools, Floats, find_operating_points
from pipeline.models.tags import find_candidates
from pipeline.taxonomy import Taxonomy

# Standard deviations between an estimated precision and its lower bound.
_BOUND = 0.5
# A trusted label's threshold takes at least so many validation images, and at least this share of
# its positives: a precision of fewer is an accident, and the label would be silent elsewhere.
_LEAST_TAKEN = 3
_LEAST_SHARE = 0.1
# Precision that a label gives up for recall where it cannot reach the target anyway.
_GIVEN_UP = 0.02
# Thresholds that the pooled curve offers to each label.
_POOLED_THRESHOLDS = 1000

Source = Literal["validation", "pooled", "kept"]


@dataclass(frozen=True, kw_only=True)
class LabelThreshold:
    """A label's threshold and how it came about.

    Attributes:
        threshold: 0 to 1.
        source: ``validation``: its own validation images weigh at least as much as the pooled
            ones; ``pooled``: they weigh less; ``kept``: no label has a positive, the taxonomy's
            threshold stays.
        positives: The label's positives in the validation images.
        estimate: What is expected: a lower bound of the precision, or F1. NaN where kept.
        reached: Whether the estimate reaches the target; always for the goal ``f1``.
    """

    threshold: float
    source: Source
    positives: int
    estimate: float
    reached: bool


class _Curve:
    """Hits and predictions at any threshold, not only at those that occur."""

    def __init__(self, scores: Floats, positive: Bools, candidate: Bools) -> None:
        points = find_operating_points(scores, positive, candidate)
        self.positives = points.positives
        self._thresholds = points.thresholds[::-1]
        self._hits = np.append(points.hits[::-1], 0.0)
        self._taken = np.append(points.taken[::-1], 0.0)

    def at(self, thresholds: Floats) -> tuple[Floats, Floats]:
        """Hits and predictions from each threshold on, [T] each."""
        places = np.searchsorted(self._thresholds, thresholds, side="left")
        return self._hits[places], self._taken[places]


def calibrate_thresholds(
    scores: npt.NDArray[np.float32],
    targets: Bools,
    known: Bools,
    taxonomy: Taxonomy,
    config: CalibrationConfig,
) -> tuple[LabelThreshold, ...]:
    """Choose each label's threshold.

    Labels are pooled with all labels of tasks of the same kind.

    Args:
        scores: [N, L] of the validation images, 0 to 1, in the taxonomy's order.
        targets: [N, L].
        known: [N, L]; pairs that are False are not read.
        taxonomy: Kinds of tasks, and the thresholds of labels that nothing is known about.
        config: What is wanted.

    Returns:
        L of them, in the taxonomy's order.
    """
    values = scores.astype(np.float64)
    candidates = find_candidates(scores, taxonomy)
    pooled = {
        kind: _pool(values, targets, known, candidates, columns)
        for kind, columns in _columns_by_kind(taxonomy).items()
    }
    chosen: list[LabelThreshold] = []
    for column, (task, label) in enumerate(taxonomy.labels):
        curve, offered = pooled[task.kind]
        if not len(offered):
            kept = LabelThreshold(
                threshold=label.threshold,
                source="kept",
                positives=0,
                estimate=float("nan"),
                reached=False,
            )
            chosen.append(kept)
            continue
        counted = known[:, column]
        own = _Curve(values[counted, column], targets[counted, column], candidates[counted, column])
        hit = counted & targets[:, column] & candidates[:, column]
        chosen.append(_choose(own, curve, np.append(offered, values[hit, column]), config))
    return tuple(chosen)


def with_calibrated(taxonomy: Taxonomy, chosen: tuple[LabelThreshold, ...]) -> Taxonomy:
    """The taxonomy with the chosen thresholds."""
    return taxonomy.with_thresholds(
        {
            (task.id, label.id): one.threshold
            for (task, label), one in zip(taxonomy.labels, chosen, strict=True)
        }
    )


def _choose(
    own: _Curve, pooled: _Curve, offered: Floats, config: CalibrationConfig
) -> LabelThreshold:
    """The best of the offered thresholds."""
    # without positives of its own nothing but the pooled curve is left to go by
    prior = config.prior_positives if own.positives else max(config.prior_positives, 1.0)
    trusted = own.positives > 0 and own.positives >= prior
    thresholds = np.unique(np.maximum(offered, _round_up(config.least)))
    hits, taken = own.at(thresholds)
    if trusted:
        least = min(max(_LEAST_TAKEN, _LEAST_SHARE * own.positives), taken.max())
        thresholds = thresholds[taken >= least]
        hits, taken = own.at(thresholds)
    pooled_hits, pooled_taken = pooled.at(thresholds)
    pooled_precision = pooled_hits / np.maximum(pooled_taken, 1)
    # where nothing is taken and nothing imagined, nothing is precise
    precision = (hits + prior * pooled_precision) / np.maximum(taken + prior, 1)
    if config.goal == "precision":
        spread = np.sqrt(precision * (1 - precision) / (taken + prior + 1))
        estimate = precision - _BOUND * spread
        reached = bool(estimate.max() >= config.precision)
        target = config.precision if reached else estimate.max() - _GIVEN_UP
        best = int(np.flatnonzero(estimate >= target)[0])
    else:
        recall = (hits + prior * pooled_hits / pooled.positives) / (own.positives + prior)
        estimate = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best, reached = int(estimate.argmax()), True
    return LabelThreshold(
        threshold=float(thresholds[best]),
        source="validation" if trusted else "pooled",
        positives=own.positives,
        estimate=float(estimate[best]),
        reached=reached,
    )


def _round_up(number: float) -> float:
    """The least float32 that is not below: scores and thresholds meet as float32."""
    rounded = np.float32(number)
    if float(rounded) < number:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return float(rounded)


def _columns_by_kind(taxonomy: Taxonomy) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {}
    for column, (task, _) in enumerate(taxonomy.labels):
        columns.setdefault(task.kind, []).append(column)
    return columns


def _pool(
    values: Floats, targets: Bools, known: Bools, candidates: Bools, columns: list[int]
) -> tuple[_Curve, Floats]:
    """The curve of several labels together, and the thresholds it offers to each of them."""
    counted = known[:, columns]
    scores = values[:, columns][counted]
    positive, candidate = targets[:, columns][counted], candidates[:, columns][counted]
    return _Curve(scores, positive, candidate), _offer_thresholds(scores[positive & candidate])


def _offer_thresholds(scores: Floats) -> Floats:
    """Scores of positives, thinned: between two of them precision only falls."""
    different = np.unique(scores)
    if len(different) <= _POOLED_THRESHOLDS:
        return different
    places = np.linspace(0, len(different) - 1, _POOLED_THRESHOLDS).round().astype(int)
    return np.asarray(different[places])
