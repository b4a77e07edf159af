"""Whether a score of 0.8 is right eight times in ten: expected calibration error.

With bins of equal mass: edges are quantiles of the scores, so that every bin holds about as many
pairs (arXiv 1909.10155 argues for them over bins of equal width). Equal scores share a bin.

Shapes: M pairs of an image and a label, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.operating_points import Bools, Floats


@dataclass(frozen=True, kw_only=True)
class CalibrationBins:
    """What was promised and what held, bin by bin; empty bins are left out.

    Attributes:
        pairs: [K], pairs in the bin.
        scores: [K], their mean score.
        shares: [K], share of positives among them.
    """

    pairs: Floats
    scores: Floats
    shares: Floats

    @property
    def error(self) -> float:
        """Mean over pairs of their bin's |share - score|; NaN where there are none."""
        if not len(self.pairs):
            return float("nan")
        return float(np.average(np.abs(self.shares - self.scores), weights=self.pairs))


def find_bins(scores: Floats, bins: int) -> npt.NDArray[np.int64]:
    """Each pair's bin of equal mass, [M], 0 to bins - 1.

    Args:
        scores: [M], 0 to 1, at least one.
        bins: At least 1.
    """
    # a score may lie on an edge: percentiles round as scikit-learn's calibration_curve does
    edges = np.percentile(scores, np.linspace(0, 1, bins + 1)[1:-1] * 100)
    return np.asarray(np.searchsorted(edges, scores), np.int64)


def make_calibration_bins(scores: Floats, positive: Bools, bins: int) -> CalibrationBins:
    """Put pairs into bins of equal mass.

    Args:
        scores: [M], 0 to 1.
        positive: [M].
        bins: At least 1.
    """
    if not len(scores):
        empty = np.zeros(0)
        return CalibrationBins(pairs=empty, scores=empty, shares=empty)
    places = find_bins(scores, bins)
    pairs = np.bincount(places, minlength=bins).astype(np.float64)
    filled = pairs > 0
    pairs = pairs[filled]
    return CalibrationBins(
        pairs=pairs,
        scores=np.bincount(places, weights=scores, minlength=bins)[filled] / pairs,
        shares=np.bincount(places, weights=positive, minlength=bins)[filled] / pairs,
    )
