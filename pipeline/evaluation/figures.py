"""All figures of one set of images, each with its bootstrap interval.

Intervals are percentiles over resamples of the images, not of pairs: the labels of one image depend
on each other. They say how much chance lies in which images were tested, not in the training. A
calibration error is a sum of distances, which resampling lengthens: its interval lies high and may
not hold the figure.

Shapes: N images, L labels, R resamples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.config import FiguresConfig
from pipeline.evaluation.decisions import DecisionCounts, count_decisions
from pipeline.evaluation.operating_points import Bools, Floats
from pipeline.evaluation.resampling import (
    WeightedCalibration,
    draw_weights,
    rank_labels,
    rank_pooled,
    weigh_decisions,
)

# The MuMIC paper states GAP@10.
_K = 10


@dataclass(frozen=True)
class Interval:
    """A figure and where it may lie. All NaN where it is not defined.

    Attributes:
        value: Of the set itself.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """For JSON: what is not defined is None."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(value) else float(value) for name, value in named.items()}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one set of images says about a model.

    Attributes:
        images: N.
        labels_without_positive: Labels that no mean over labels counts.
        majority_labels: Labels in ``macro_map_majority``.
        headline: Figures of the whole set: gap, gap_at_10, micro_map, macro_map,
            macro_map_majority, precision, recall and f1 (micro and macro),
            recall_at_precision (mean over labels with a positive), calibration_error (of all
            pairs), macro_calibration_error (mean over labels with a positive).
        by_label: Figures of each label, L of each: average_precision, precision, recall, f1,
            recall_at_precision, calibration_error.
        counts: Decisions on the set itself, [L] each.
    """

    images: int
    labels_without_positive: int
    majority_labels: int
    headline: Mapping[str, Interval]
    by_label: Mapping[str, tuple[Interval, ...]]
    counts: DecisionCounts


def measure(
    scores: Floats, targets: Bools, known: Bools, predicted: Bools, config: FiguresConfig
) -> Figures:
    """Measure a set of images.

    Args:
        scores: [N, L], 0 to 1; N at least 1.
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
        predicted: [N, L], which labels became tags.
        config: What to measure, and how many resamples.
    """
    positives = (targets & known).sum(axis=0)
    majority = positives >= config.majority_positives
    pooled = rank_pooled(scores, targets, known)
    pooled_at_k = rank_pooled(scores, targets, known, k=_K)
    micro = rank_pooled(scores, targets, known, tied=True)
    labels = rank_labels(scores, targets, known)
    calibration = WeightedCalibration(scores, targets, known, config.calibration_bins)
    calibrations = [
        WeightedCalibration(scores[:, [c]], targets[:, [c]], known[:, [c]], config.calibration_bins)
        for c in range(scores.shape[1])
    ]
    drawn: defaultdict[str, list[Floats]] = defaultdict(list)
    for weights in draw_weights(len(scores), config.resamples, config.seed):
        counts = weigh_decisions(weights, predicted, targets, known)
        ranked = [one.measure(weights, config.precision) for one in labels]
        precision = np.stack([one for one, _ in ranked], axis=-1)
        recall = np.stack([one for _, one in ranked], axis=-1)
        errors = np.stack([one.error(weights) for one in calibrations], axis=-1)
        total = counts.pooled()
        for name, values in {
            "gap": pooled.average_precision(weights),
            "gap_at_10": pooled_at_k.average_precision(weights),
            "micro_map": micro.average_precision(weights),
            "macro_map": _mean(precision),
            "macro_map_majority": _mean(precision[:, majority]),
            "micro_precision": total.precision[:, 0],
            "micro_recall": total.recall[:, 0],
            "micro_f1": total.f1[:, 0],
            "macro_precision": counts.macro(counts.precision),
            "macro_recall": counts.macro(counts.recall),
            "macro_f1": counts.macro(counts.f1),
            "recall_at_precision": _mean(recall),
            "calibration_error": calibration.error(weights),
            "macro_calibration_error": _mean(errors[:, positives > 0]),
            "by_label.average_precision": precision,
            "by_label.precision": counts.precision,
            "by_label.recall": counts.recall,
            "by_label.f1": counts.f1,
            "by_label.recall_at_precision": recall,
            "by_label.calibration_error": errors,
        }.items():
            drawn[name].append(values)
    intervals = {
        name: make_intervals(np.concatenate(values), config.confidence)
        for name, values in drawn.items()
    }
    return Figures(
        images=len(scores),
        labels_without_positive=int(np.count_nonzero(positives == 0)),
        majority_labels=int(np.count_nonzero(majority)),
        headline={n: i[0] for n, i in intervals.items() if not n.startswith("by_label.")},
        by_label={
            n.removeprefix("by_label."): i for n, i in intervals.items() if n.startswith("by_label")
        },
        counts=count_decisions(predicted, targets, known),
    )


def _mean(values: Floats) -> Floats:
    """Mean over labels, [R, L] to [R], without those that are not defined."""
    defined = ~np.isnan(values)
    counts = defined.sum(axis=1)
    sums = np.where(defined, values, 0.0).sum(axis=1)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def make_intervals(values: Floats, confidence: float) -> tuple[Interval, ...]:
    """Percentile intervals of figures.

    Args:
        values: Of the set itself (row 0) and of its resamples, [1 + R] or [1 + R, L].
        confidence: Share of the resamples within an interval.
    """
    columns = values[:, None] if values.ndim == 1 else values
    outside = (1 - confidence) / 2
    found = []
    for column in columns.T:
        resampled = column[1:][~np.isnan(column[1:])]
        if np.isnan(column[0]) or not len(resampled):
            found.append(Interval(float(column[0]), float("nan"), float("nan")))
            continue
        low, high = np.quantile(resampled, [outside, 1 - outside])
        found.append(Interval(float(column[0]), float(low), float(high)))
    return tuple(found)
