"""One page for people: a single HTML file that asks for nothing beside itself."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipeline import __version__
from pipeline.evaluation.assessment import Assessment
from pipeline.evaluation.curves import make_curves, make_noise_charts
from pipeline.evaluation.modality_study import ModalityStudy

_TEMPLATE = "report.html"

# Name in metrics.json, name for people, what it says.
HEADLINES = (
    ("gap", "GAP", "All pairs pooled, precision at each hit over all positives"),
    ("gap_at_10", "GAP@10", "The same over each image's ten best labels"),
    ("macro_map", "Macro mAP", "Mean of the labels' average precisions"),
    ("macro_map_majority", "Macro mAP, majority", "The same over frequent labels only"),
    ("micro_map", "Micro mAP", "Average precision of all pairs; equal scores share a threshold"),
    ("micro_precision", "Precision", "Of all tags at the thresholds"),
    ("micro_recall", "Recall", "Of all positives at the thresholds"),
    ("micro_f1", "F1", "Of all tags at the thresholds"),
    ("macro_precision", "Precision, macro", "Mean over labels; one never predicted counts 0"),
    ("macro_recall", "Recall, macro", "Mean over labels"),
    ("macro_f1", "F1, macro", "Mean over labels"),
    (
        "recall_at_precision",
        "Recall at precision",
        "Best recall at the precision, mean over labels",
    ),
    ("calibration_error", "Calibration error", "Expected, bins of equal mass, all pairs"),
    ("macro_calibration_error", "Calibration error, macro", "The same, mean over labels"),
)
ZERO_SHOT = ("gap", "gap_at_10", "macro_map", "micro_map", "micro_f1")
# Columns of the table of labels: name in metrics.json, heading, form.
COLUMNS = (
    ("positives", "Positives", "count"),
    ("predicted", "Tags", "count"),
    ("average_precision", "AP", "figure"),
    ("precision", "Precision", "figure"),
    ("recall", "Recall", "figure"),
    ("f1", "F1", "figure"),
    ("recall_at_precision", "Recall at precision", "figure"),
    ("calibration_error", "Calibration error", "figure"),
    ("threshold", "Threshold", "number"),
)

# Okabe and Ito's colours: told apart by colour-blind readers, too.
TASK_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def write_report(
    path: Path,
    *,
    metrics: dict[str, Any],
    assessment: Assessment,
    mistakes: list[dict[str, Any]],
    label_errors: list[dict[str, Any]],
    study: ModalityStudy | None = None,
) -> None:
    """Write the report.

    Args:
        path: Where to.
        metrics: As in metrics.json.
        assessment: What the curves are drawn from.
        mistakes: The worst ones: image_id, picture (a data URI, or None), given (names), label
            (id), kind, score.
        label_errors: The most probable ones, alike; label is the name.
        study: What each modality is worth; None where one alone is read.
    """
    images = assessment.images
    curves = make_curves(
        images.scores.astype(np.float64),
        images.targets,
        images.known,
        assessment.figures.counts,
        bins=metrics["figures"]["calibration_bins"],
    )
    path.write_text(
        render_report(
            metrics=metrics,
            curves=curves,
            mistakes=mistakes,
            label_errors=label_errors,
            study=study,
        ),
        encoding="utf-8",
    )


def render_report(
    *,
    metrics: dict[str, Any],
    curves: list[dict[str, Any]],
    mistakes: list[dict[str, Any]],
    label_errors: list[dict[str, Any]],
    study: ModalityStudy | None = None,
) -> str:
    """The report as HTML. Whatever comes from outside is escaped.

    Args:
        metrics: As in metrics.json.
        curves: Of all labels pooled, then of each.
        mistakes: See :func:`write_report`.
        label_errors: See :func:`write_report`.
        study: See :func:`write_report`.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, share=_share, number=_number, points=_points)
    text = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    names = {label["label"]: label["name"] for label in metrics["labels"]}
    return environment.from_string(text).render(
        metrics=metrics,
        headlines=HEADLINES,
        zero_shot_figures=ZERO_SHOT,
        titles={name: title for name, title, _ in HEADLINES},
        columns=COLUMNS,
        curves=curves,
        curve_names=["all labels", *(label["name"] for label in metrics["labels"])],
        names=names,
        mistakes=mistakes,
        label_errors=label_errors,
        noise_charts=[] if study is None else make_noise_charts(study.noise),
        explained=[] if study is None else study.explained,
        task_colours=TASK_COLOURS,
        version=__version__,
    )


def _percent(value: float | None) -> str:
    """0.8384 as ``83.8``; a dash for what is not defined."""
    return "\u2013" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _share(value: float) -> str:
    """0.9 as ``90``: settings are round numbers."""
    return f"{100 * value:g}"


def _number(value: float | None) -> str:
    return "\u2013" if value is None or math.isnan(value) else f"{value:.3f}"


def _points(curve: list[list[float]], size: float) -> str:
    """Points of a polyline: the origin is below, SVG counts from above."""
    return " ".join(f"{x * size:.1f},{(1 - y) * size:.1f}" for x, y in curve)
