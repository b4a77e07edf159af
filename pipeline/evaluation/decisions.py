"""What thresholds make of scores: which labels become tags, and how often that is right.

Shapes: N images, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.operating_points import Bools, Floats
from pipeline.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class DecisionCounts:
    """How often each label was predicted, held, and both. Floats: they may be weighted sums.

    Attributes:
        hits: [..., L], predicted and positive.
        predicted: [..., L].
        positives: [..., L].
    """

    hits: Floats
    predicted: Floats
    positives: Floats

    @property
    def precision(self) -> Floats:
        """Of each label; NaN where it was never predicted."""
        return _ratio(self.hits, self.predicted)

    @property
    def recall(self) -> Floats:
        """Of each label; NaN where it has no positive."""
        return _ratio(self.hits, self.positives)

    @property
    def f1(self) -> Floats:
        """Of each label; NaN where it was never predicted and has no positive."""
        return _ratio(2 * self.hits, self.predicted + self.positives)

    def macro(self, figure: Floats) -> Floats:
        """Mean over labels with a positive; what is not defined there counts as 0.

        So a label that is never predicted has a precision of 0 here: silence earns nothing.

        Args:
            figure: [..., L], one of the properties.

        Returns:
            [...]; NaN where no label has a positive.
        """
        counts = self.positives > 0
        return _ratio(np.where(counts, np.nan_to_num(figure), 0.0).sum(-1), counts.sum(-1))

    def pooled(self) -> DecisionCounts:
        """The sums over labels, [..., 1]: its figures are micro averages."""
        return DecisionCounts(
            hits=self.hits.sum(-1, keepdims=True),
            predicted=self.predicted.sum(-1, keepdims=True),
            positives=self.positives.sum(-1, keepdims=True),
        )


def find_candidates(scores: npt.NDArray[np.floating], taxonomy: Taxonomy) -> Bools:
    """[N, L]: the label may become a tag, if its score is high enough.

    Of a single_label task only the best label may; of equal ones the first.

    Args:
        scores: [N, L], in the taxonomy's order.
        taxonomy: Gives the kinds of the tasks.
    """
    candidates = np.ones(scores.shape, bool)
    for task, columns in taxonomy.columns:
        if task.kind == "single_label":
            best = scores[:, columns].argmax(axis=1)
            candidates[:, columns] = np.arange(len(task.labels)) == best[:, None]
    return candidates


def predict_tags(scores: npt.NDArray[np.float32], taxonomy: Taxonomy) -> Bools:
    """[N, L]: the label becomes a tag, by the rule that publishing has.

    Args:
        scores: [N, L], float32, in the taxonomy's order.
        taxonomy: Thresholds and kinds of tasks.
    """
    thresholds = np.array([label.threshold for _, label in taxonomy.labels], np.float32)
    return np.asarray(find_candidates(scores, taxonomy) & (scores >= thresholds))


def count_decisions(predicted: Bools, targets: Bools, known: Bools) -> DecisionCounts:
    """Count hits, predictions and positives of each label among known pairs.

    Args:
        predicted: [N, L].
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
    """
    return DecisionCounts(
        hits=(predicted & targets & known).sum(axis=0, dtype=np.float64),
        predicted=(predicted & known).sum(axis=0, dtype=np.float64),
        positives=(targets & known).sum(axis=0, dtype=np.float64),
    )


def _ratio(above: Floats, below: npt.ArrayLike) -> Floats:
    """Above / below, NaN instead of a division by 0."""
    divisor = np.asarray(below, np.float64)
    ratios = np.full(divisor.shape, np.nan)
    np.divide(above, divisor, out=ratios, where=divisor > 0)
    return ratios
