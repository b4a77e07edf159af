"""From scores to tags: which labels a run would publish. NumPy only.

Shapes: B images, L labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.models.scoring import FloatArray
from pipeline.taxonomy import Taxonomy


def find_candidates(scores: FloatArray, taxonomy: Taxonomy) -> npt.NDArray[np.bool_]:
    """Labels that become tags if their score is high enough: of a single-label task the best one.

    Of equal ones the first.

    Args:
        scores: [B, L], float32, 0 to 1, in the taxonomy's order.
        taxonomy: Gives the kinds of the tasks.

    Returns:
        [B, L].
    """
    candidates = np.ones(scores.shape, bool)
    start = 0
    for task in taxonomy.tasks:
        end = start + len(task.labels)
        if task.kind == "single_label":
            best = scores[:, start:end].argmax(axis=1)
            candidates[:, start:end] = np.arange(end - start) == best[:, None]
        start = end
    return candidates


def mark_tags(scores: FloatArray, taxonomy: Taxonomy) -> npt.NDArray[np.bool_]:
    """Labels at or above their threshold; of a single-label task the best one alone.

    Args:
        scores: [B, L], float32, 0 to 1, in the taxonomy's order.
        taxonomy: Kinds of tasks and thresholds.

    Returns:
        [B, L].
    """
    # rounded as scores are: a threshold of 0.3 holds for a score of 0.3
    thresholds = np.array([label.threshold for _, label in taxonomy.labels], np.float32)
    return np.asarray(find_candidates(scores, taxonomy) & (scores >= thresholds))
