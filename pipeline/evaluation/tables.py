"""What an evaluation writes for machines: metrics.json and the table of label errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pipeline.evaluation.assessment import Assessment
from pipeline.evaluation.confusions import LabelPair
from pipeline.evaluation.figures import Figures
from pipeline.evaluation.label_errors import LabelError
from pipeline.evaluation.modality_study import ModalityStudy
from pipeline.evaluation.noise import NoisePoint
from pipeline.evaluation.scored import ScoredImages
from pipeline.evaluation.task_figures import TaskFigures
from pipeline.evaluation.thresholds import LabelThreshold
from pipeline.taxonomy import Taxonomy

LABEL_ERROR_SCHEMA = pa.schema(
    {
        "rank": pa.int64(),
        "image_id": pa.string(),
        "split": pa.string(),
        "task": pa.string(),
        "label": pa.string(),
        "kind": pa.string(),
        "given": pa.bool_(),
        "score": pa.float64(),
        "confident": pa.bool_(),
    }
)


def make_metrics(
    assessment: Assessment,
    taxonomy: Taxonomy,
    chosen: tuple[LabelThreshold, ...] | None,
    *,
    about: dict[str, Any],
    study: ModalityStudy | None = None,
) -> dict[str, Any]:
    """All figures as plain JSON data; what is not defined is None.

    Args:
        assessment: What was found.
        taxonomy: With the thresholds that the figures are of.
        chosen: How they were calibrated; None where they were not.
        about: What the figures are of; stands beside them.
        study: What each modality is worth; None where one alone is read.
    """
    labels = [label.id for _, label in taxonomy.labels]
    figures = assessment.figures
    return {
        **about,
        "images": figures.images,
        "labels_without_positive": figures.labels_without_positive,
        "majority_labels": figures.majority_labels,
        "headline": _headline(figures),
        "tasks": [_task(one) for one in assessment.tasks],
        "zero_shot": _zero_shot(assessment, labels),
        "labels": [_label(assessment, taxonomy, chosen, place) for place in range(len(labels))],
        "noise": None if study is None else [_noise(point) for point in study.noise],
        "explanations": None
        if study is None
        else [
            {"image_id": one.image_id, "text": one.text, "word": one.word, "weights": one.weights}
            for one in study.explained
        ],
        "confusions": [_pair(one, labels, "share_of_misses") for one in assessment.confusions],
        "cooccurrences": [_pair(one, labels, "lift") for one in assessment.cooccurrences],
        "mistakes": [
            {
                "image_id": assessment.images.ids[one.image],
                "label": labels[one.label],
                "kind": one.kind,
                "score": one.score,
            }
            for one in assessment.mistakes
        ],
    }


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics as JSON that every reader takes: no NaN."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_label_errors(
    path: Path, errors: list[LabelError], images: ScoredImages, taxonomy: Taxonomy
) -> None:
    """Write the table of probably wrong labels as Parquet, the most probable first.

    Columns: rank (from 1), image_id, split, task, label (ids), kind (``wrong``: given and should
    not be; ``missing``: should be given), given, score (0 to 1, share of similar images that have
    the label), confident (found by confident learning; the others are only unlikely).

    Args:
        path: Where to.
        errors: Of ``images``.
        images: What the errors' indexes count in.
        taxonomy: Names of the labels.
    """
    rows = []
    for rank, one in enumerate(errors, start=1):
        task, label = taxonomy.labels[one.label]
        rows.append(
            {
                "rank": rank,
                "image_id": images.ids[one.image],
                "split": str(images.splits[one.image]),
                "task": task.id,
                "label": label.id,
                "kind": one.kind,
                "given": one.given,
                "score": one.score,
                "confident": one.confident,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, schema=LABEL_ERROR_SCHEMA), path)


def _headline(figures: Figures) -> dict[str, Any]:
    return {name: interval.to_dict() for name, interval in figures.headline.items()}


def _noise(point: NoisePoint) -> dict[str, Any]:
    figures = {task: None if np.isnan(value) else value for task, value in point.figures.items()}
    return {
        "modality": point.modality,
        "how": point.how,
        "rate": point.rate,
        "figures": figures,
        "weights": point.weights,
    }


def _task(figures: TaskFigures) -> dict[str, Any]:
    return {
        "task": figures.task,
        "kind": figures.kind,
        "images": figures.images,
        "accuracy": None if figures.accuracy is None else figures.accuracy.to_dict(),
        "recall_at_precision": figures.recall_at_precision.to_dict(),
        "gap": figures.gap.to_dict(),
    }


def _label(
    assessment: Assessment,
    taxonomy: Taxonomy,
    chosen: tuple[LabelThreshold, ...] | None,
    place: int,
) -> dict[str, Any]:
    task, label = taxonomy.labels[place]
    counts = assessment.figures.counts
    how = None if chosen is None else chosen[place]
    return {
        "task": task.id,
        "label": label.id,
        "name": label.name,
        "seen": place not in assessment.unseen,
        "threshold": label.threshold,
        "threshold_source": "bundle" if how is None else how.source,
        "threshold_reaches_target": None if how is None else how.reached,
        "validation_positives": None if how is None else how.positives,
        "positives": int(counts.positives[place]),
        "predicted": int(counts.predicted[place]),
        "hits": int(counts.hits[place]),
        **{
            name: intervals[place].to_dict()
            for name, intervals in assessment.figures.by_label.items()
        },
    }


def _zero_shot(assessment: Assessment, labels: list[str]) -> dict[str, Any] | None:
    """Figures of labels left out of the training, beside those of the others."""
    unseen, seen = assessment.unseen_figures, assessment.seen_figures
    if unseen is None:
        return None
    return {
        "labels": [labels[place] for place in assessment.unseen],
        "unseen": _headline(unseen),
        "seen": None if seen is None else _headline(seen),
    }


def _pair(pair: LabelPair, labels: list[str], share: str) -> dict[str, Any]:
    return {
        "first": labels[pair.first],
        "second": labels[pair.second],
        "images": pair.images,
        share: pair.share,
    }
