"""Precision-recall and calibration curves, thin enough for a page.

Shapes: N images, L labels, P points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.calibration_error import make_calibration_bins
from pipeline.evaluation.decisions import DecisionCounts
from pipeline.evaluation.noise import NoisePoint
from pipeline.evaluation.operating_points import Bools, Floats, find_operating_points

_MOST_POINTS = 80
_DIGITS = 4


def make_noise_charts(points: Sequence[NoisePoint]) -> list[dict[str, Any]]:
    """Lines over rates for each kind of noise, as plain data.

    Args:
        points: Of the noise protocol, in its order.

    Returns:
        Of each kind: ``modality``, ``how``, and ``lines``, one for each task: ``task``,
        ``figures`` and ``weights`` (of the modality that is spoilt), each [[rate, value], ...].
    """
    charts = []
    for (modality, how), group in itertools.groupby(points, lambda p: (p.modality, p.how)):
        of_kind = list(group)
        lines = [
            {
                "task": task,
                "figures": [[p.rate, p.figures[task]] for p in of_kind if p.figures[task] >= 0],
                "weights": [[p.rate, p.weights[task][modality]] for p in of_kind],
            }
            for task in of_kind[0].figures
        ]
        charts.append({"modality": modality, "how": how, "lines": lines})
    return charts


def make_curves(
    scores: Floats, targets: Bools, known: Bools, counts: DecisionCounts, *, bins: int
) -> list[dict[str, Any]]:
    """Curves of all pairs pooled, then of each label, as plain JSON data.

    Args:
        scores: [N, L], 0 to 1.
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
        counts: Decisions at the thresholds in force, [L] each.
        bins: Of equal mass, of the calibration curve.

    Returns:
        1 + L of them: ``ranking`` [[recall, precision], ...], ``calibration`` [[mean score, share
        of positives], ...], ``decided`` [recall, precision] at the threshold, or None.
    """
    curves = [
        _make_curve(scores[known], targets[known], counts.pooled(), place=0, bins=bins),
    ]
    for place in range(scores.shape[1]):
        rows = known[:, place]
        curves.append(
            _make_curve(scores[rows, place], targets[rows, place], counts, place=place, bins=bins)
        )
    return curves


def _make_curve(
    scores: Floats, positive: Bools, counts: DecisionCounts, *, place: int, bins: int
) -> dict[str, Any]:
    points = find_operating_points(scores, positive)
    # between two hits precision only falls: the points with a new hit outline the curve
    hit = np.flatnonzero(np.diff(points.hits, prepend=0.0) > 0)
    if len(hit) > _MOST_POINTS:
        hit = hit[np.linspace(0, len(hit) - 1, _MOST_POINTS).round().astype(int)]
    found = make_calibration_bins(scores, positive, bins)
    decided = (float(counts.recall[place]), float(counts.precision[place]))
    return {
        "ranking": _rounded(points.recall[hit], points.precision[hit]),
        "calibration": _rounded(found.scores, found.shares),
        "decided": None
        if np.isnan(decided).any()
        else [round(value, _DIGITS) for value in decided],
    }


def _rounded(x: Floats, y: Floats) -> list[list[float]]:
    rounded: list[list[float]] = np.column_stack([x, y]).round(_DIGITS).tolist()
    return rounded
