"""What every threshold of one label would give: hits, predictions, precision, recall.

Shapes: N images, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """One point for each different score, the highest first.

    Attributes:
        thresholds: [T], falling; a label is predicted from its threshold on.
        hits: [T], positives at or above the threshold.
        taken: [T], images at or above the threshold.
        positives: All positives, those below every threshold included.
    """

    thresholds: Floats
    hits: Floats
    taken: Floats
    positives: int

    @property
    def precision(self) -> Floats:
        """[T], 0 to 1."""
        return self.hits / self.taken

    @property
    def recall(self) -> Floats:
        """[T], rising, 0 to 1; 0 where there is no positive."""
        return self.hits / max(1, self.positives)

    @property
    def f1(self) -> Floats:
        """[T], 0 to 1; the harmonic mean of precision and recall."""
        return 2 * self.hits / (self.taken + self.positives)


def find_operating_points(
    scores: Floats, positive: Bools, candidate: Bools | None = None
) -> OperatingPoints:
    """Sort one label's images by score; equal scores share a threshold.

    Args:
        scores: [N], finite.
        positive: [N].
        candidate: [N], False where the label cannot be predicted whatever its score is. Such a
            positive is missed at every threshold. None: all can be.
    """
    positives = int(np.count_nonzero(positive))
    if candidate is not None:
        scores, positive = scores[candidate], positive[candidate]
    order = np.argsort(-scores, kind="stable")
    # the last rank of every run of equal scores
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return OperatingPoints(
        thresholds=scores[order][last],
        hits=np.cumsum(positive[order], dtype=np.float64)[last],
        taken=(last + 1).astype(np.float64),
        positives=positives,
    )
