"""From scores to tags: which labels a run would publish. NumPy only.

Shapes: B images, L labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.models.scoring import FloatArray
from pipeline.taxonomy import Taxonomy


def mark_tags(scores: FloatArray, taxonomy: Taxonomy) -> npt.NDArray[np.bool_]:
    """Labels at or above their threshold; of a single-label task the best one alone.

    Args:
        scores: [B, L], float32, 0 to 1, in the taxonomy's order.
        taxonomy: Kinds of tasks and thresholds.

    Returns:
        [B, L].
    """
    labels = taxonomy.labels
    # rounded as scores are: a threshold of 0.3 holds for a score of 0.3
    thresholds = np.array([label.threshold for _, label in labels], np.float32)
    marked = scores >= thresholds
    for task in taxonomy.tasks:
        if task.kind == "single_label":
            columns = np.array([index for index, (one, _) in enumerate(labels) if one is task])
            best = columns[scores[:, columns].argmax(axis=1)]
            is_best = np.zeros_like(marked[:, columns])
            is_best[np.arange(len(scores)), best - columns[0]] = True
            marked[:, columns] &= is_best
    return marked
