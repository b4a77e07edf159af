"""Everything that one set of scored images says about a model and a taxonomy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config import EvaluateModelConfig
from pipeline.evaluation.confusions import LabelPair, find_confusions, find_cooccurrences
from pipeline.evaluation.figures import Figures, measure
from pipeline.evaluation.mistakes import Mistake, find_mistakes
from pipeline.evaluation.operating_points import Bools
from pipeline.evaluation.scored import ScoredImages
from pipeline.evaluation.task_figures import TaskFigures, measure_tasks
from pipeline.models.tags import mark_tags
from pipeline.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What was found.

    Attributes:
        images: The images looked at.
        predicted: [N, L], which labels became tags.
        unseen: Indexes of labels that the training left out.
        figures: Of all labels.
        tasks: Of each task as a whole.
        unseen_figures: Of the labels that the training left out alone (zero-shot); None without.
        seen_figures: Of the others alone; None without labels left out, or without others.
        confusions: Labels taken for each other.
        cooccurrences: Labels that stand together.
        mistakes: The worst ones.
    """

    images: ScoredImages
    predicted: Bools
    unseen: tuple[int, ...]
    figures: Figures
    tasks: tuple[TaskFigures, ...]
    unseen_figures: Figures | None
    seen_figures: Figures | None
    confusions: list[LabelPair]
    cooccurrences: list[LabelPair]
    mistakes: list[Mistake]


def assess(
    images: ScoredImages,
    taxonomy: Taxonomy,
    unseen_labels: tuple[str, ...],
    config: EvaluateModelConfig,
) -> Assessment:
    """Measure a set of images.

    Args:
        images: At least one.
        taxonomy: Its thresholds decide what became a tag.
        unseen_labels: Ids of labels that the training left out.
        config: What to measure and how much to show.
    """
    scores = images.scores.astype(np.float64)
    targets, known = images.targets, images.known
    predicted = mark_tags(images.scores, taxonomy)
    is_unseen = np.array([label.id in unseen_labels for _, label in taxonomy.labels])

    def measured(columns: Bools) -> Figures | None:
        if not columns.any():
            return None
        return measure(
            scores[:, columns],
            targets[:, columns],
            known[:, columns],
            predicted[:, columns],
            config.figures,
        )

    return Assessment(
        images=images,
        predicted=predicted,
        unseen=tuple(int(place) for place in np.flatnonzero(is_unseen)),
        figures=measure(scores, targets, known, predicted, config.figures),
        tasks=measure_tasks(scores, targets, known, taxonomy, config.figures),
        unseen_figures=measured(is_unseen),
        seen_figures=measured(~is_unseen) if is_unseen.any() else None,
        confusions=find_confusions(predicted, targets, known, config.report.pairs),
        cooccurrences=find_cooccurrences(targets, known, config.report.pairs),
        mistakes=find_mistakes(images.scores, predicted, targets, known, config.report.mistakes),
    )
