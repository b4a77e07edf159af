"""Figures of whole tasks: how often the best label is right, and how much is found surely.

The paper of CMA-CLIP (arXiv 2112.03562, tables 2 and 6) tells an attribute's recall at 90 %
precision; that one threshold holds for all labels of a task here is ours.

Shapes: N images, L labels, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config import FiguresConfig
from pipeline.evaluation.figures import Interval, make_intervals
from pipeline.evaluation.metrics import mark_right
from pipeline.evaluation.operating_points import Bools, Floats
from pipeline.evaluation.resampling import draw_weights, rank_pooled
from pipeline.taxonomy import TaskKind, Taxonomy


@dataclass(frozen=True, kw_only=True)
class TaskFigures:
    """What a set of images says about one task.

    Attributes:
        task: Its id.
        kind: Its kind.
        images: Images that somebody checked it on.
        accuracy: Share of images whose best label is right; None where several labels may hold.
        recall_at_precision: Most recall at a threshold, one for the whole task, of at least the
            precision. With one label to an image only its best label is predicted.
        gap: Global average precision over the task's labels.
    """

    task: str
    kind: TaskKind
    images: int
    accuracy: Interval | None
    recall_at_precision: Interval
    gap: Interval


def measure_tasks(
    scores: Floats, targets: Bools, known: Bools, taxonomy: Taxonomy, config: FiguresConfig
) -> tuple[TaskFigures, ...]:
    """Measure every task, with bootstrap intervals over images.

    Args:
        scores: [N, L], 0 to 1; N at least 1.
        targets: [N, L].
        known: [N, L]; pairs that are False count nowhere.
        taxonomy: Tasks and labels.
        config: The precision, and how many resamples.
    """
    found = []
    for task, at in taxonomy.columns:
        single = task.kind == "single_label"
        of_task = scores[:, at], targets[:, at], known[:, at]
        best = rank_pooled(*of_task, k=1 if single else None)
        pooled = rank_pooled(*of_task)
        right, counts = mark_right(*of_task)
        drawn = []
        for weights in draw_weights(len(scores), config.resamples, config.seed):
            counted = weights @ counts
            share = np.where(
                counted > 0, weights @ (right & counts) / np.maximum(counted, 1), np.nan
            )
            _, found_surely = best.measure(weights, config.precision)
            drawn.append(np.stack([share, found_surely, pooled.average_precision(weights)], axis=1))
        accuracy, recall, gap = make_intervals(np.concatenate(drawn), config.confidence)
        found.append(
            TaskFigures(
                task=task.id,
                kind=task.kind,
                images=int(known[:, at].any(axis=1).sum()),
                accuracy=accuracy if single else None,
                recall_at_precision=recall,
                gap=gap,
            )
        )
    return tuple(found)
