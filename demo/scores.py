"""How well the demo's model ranks: figures from the scores that the nights staged."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from demo.verify import Row, read_rows
from pipeline.evaluation.metrics import gap, label_frequencies, make_ranking_metrics

Floats = npt.NDArray[np.float64]
Figures = dict[str, float | int | None]

_USED_IN_TRAINING = ("train", "validation")


def measure_scores(tables: Path, *, labelled: Path, truth: Path) -> Figures:
    """Measure every staged score of the pictures that the training never saw.

    Args:
        tables: Folder of the table set; scores were staged without a floor.
        labelled: The labelled manifest that was trained on.
        truth: True labels by image_id and version.

    Returns:
        images_scored, gap, gap_at_10, macro_map, labels_without_positive, and
        gap_of_label_frequencies: the same images ranked by how often each label stands in the
        train split.

    Raises:
        ValueError: A fact lacks scores, or no fact is left.
    """
    facts = [row for row in read_rows(tables, "tagging_results") if row["origin"] == "model"]
    labels = sorted({row["label"] for row in read_rows(tables, "labels")})
    manifest = pq.read_table(labelled).to_pylist()
    seen = {row["image_id"] for row in manifest if row["split"] in _USED_IN_TRAINING}
    pictures = {
        (row["image_id"], row["version"]): row["labels"]
        for row in pq.read_table(truth).to_pylist()
        if row["labels"] is not None
    }
    keys, scores = make_scores(facts, labels, without=seen)
    targets = make_targets((pictures[key] for key in keys), labels)
    train = [row for row in manifest if row["split"] == "train"]
    unknown = make_targets((row["unknown"] or () for row in train), labels)
    frequencies = label_frequencies(
        make_targets((row["labels"] for row in train), labels), unknown == 0
    )
    figures = make_ranking_metrics(scores, targets)
    baseline = gap(np.tile(frequencies, (len(targets), 1)), targets)
    return {
        "images_scored": figures.images,
        **{name: value for name, value in figures.to_dict().items() if name != "images"},
        "gap_of_label_frequencies": None if math.isnan(baseline) else baseline,
    }


def make_scores(
    facts: Iterable[Row], labels: Sequence[str], *, without: Collection[str]
) -> tuple[list[tuple[str, str]], Floats]:
    """Scores of tagged pictures.

    Args:
        facts: Rows of ``tagging_results``; the last one counts where a picture has several.
        labels: Names of the columns.
        without: Images to leave out.

    Returns:
        (image_id, image_version) of N pictures and their scores, [N, L].

    Raises:
        ValueError: A fact does not score every label once, or there is none.
    """
    scored: dict[tuple[str, str], list[float]] = {}
    for fact in facts:
        if fact["status"] != "tagged" or fact["image_id"] in without:
            continue
        found = {tag["label"]: tag["score"] for tag in fact["tags"]}
        if len(fact["tags"]) != len(labels) or set(found) != set(labels):
            raise ValueError(
                f"image {fact['image_id']}: {len(fact['tags'])} scores are staged of "
                f"{len(labels)} labels; stage.score_floor must be 0"
            )
        key = fact["image_id"], fact["image_version"]
        scored[key] = [found[label] for label in labels]
    if not scored:
        raise ValueError("no staged scores of images that the training did not see")
    return list(scored), np.array(list(scored.values()), np.float64)


def make_targets(pictures: Iterable[Iterable[str]], labels: Sequence[str]) -> Floats:
    """Which labels stand with each picture, [N, L] of 0 and 1."""
    place = {label: column for column, label in enumerate(labels)}
    rows = [[place[label] for label in own] for own in pictures]
    targets = np.zeros((len(rows), len(labels)))
    for row, columns in enumerate(rows):
        targets[row, columns] = 1.0
    return targets


def describe_figures(figures: Mapping[str, Any]) -> list[str]:
    """The figures in words, some lines."""

    def number(name: str) -> str:
        value = figures[name]
        return "not defined" if value is None else f"{value:.3f}"

    return [
        f"  GAP {number('gap')} over {figures['images_scored']:,} pictures the training never saw"
        f" (label frequencies: {number('gap_of_label_frequencies')})",
        f"  GAP@10 {number('gap_at_10')}, macro mAP {number('macro_map')}",
    ]
