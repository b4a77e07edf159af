"""Figures of whole tasks against plain loops over their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.config import FiguresConfig
from pipeline.evaluation.metrics import RankingMetrics, measure_accuracy
from pipeline.evaluation.task_figures import measure_tasks
from pipeline.taxonomy import parse_taxonomy

TAXONOMY = parse_taxonomy(
    {
        "tasks": [
            {"id": "colour", "kind": "single_label", "labels": [{"id": c} for c in "rgb"]},
            {"id": "scene", "kind": "multi_label", "labels": [{"id": "bed"}, {"id": "pool"}]},
            {"id": "empty", "kind": "single_label", "labels": [{"id": "a"}, {"id": "b"}]},
        ]
    }
)
COUNT = 60


def make_set() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    targets = np.zeros((COUNT, 7), bool)
    targets[np.arange(COUNT), generator.integers(0, 3, COUNT)] = True
    targets[:, 3:5] = generator.random((COUNT, 2)) < (0.5, 0.2)
    known = np.ones_like(targets)
    known[::7, :3] = False
    known[::5, 4] = False
    known[:, 5:] = False
    scores = generator.random((COUNT, 7)) + 0.4 * targets
    return scores, targets, known


def best_recall(pairs: list[tuple[float, bool]], positives: int, precision: float) -> float:
    best, hits = 0.0, 0
    for rank, (_, hit) in enumerate(sorted(pairs, key=lambda pair: -pair[0]), start=1):
        hits += hit
        if hits / rank >= precision:
            best = max(best, hits / positives)
    return best


def test_tasks_equal_plain_loops() -> None:
    scores, targets, known = make_set()
    config = FiguresConfig(resamples=50, precision=0.7)
    colour, scene, empty = measure_tasks(scores, targets, known, TAXONOMY, config)
    checked = [row for row in range(COUNT) if known[row, 0]]
    best = {row: int(scores[row, :3].argmax()) for row in checked}
    right = [bool(targets[row, best[row]]) for row in checked]
    assert colour.accuracy is not None
    assert colour.accuracy.value == pytest.approx(sum(right) / len(checked))
    assert colour.accuracy.low < colour.accuracy.value < colour.accuracy.high
    assert colour.images == len(checked)
    pairs = [(scores[row, best[row]], hit) for row, hit in zip(checked, right, strict=True)]
    expected = best_recall(pairs, len(checked), 0.7)
    assert 0 < expected < 1
    assert colour.recall_at_precision.value == pytest.approx(expected)
    assert scene.accuracy is None
    pooled = [
        (scores[row, column], bool(targets[row, column]))
        for row in range(COUNT)
        for column in (3, 4)
        if known[row, column]
    ]
    positives = sum(hit for _, hit in pooled)
    assert scene.recall_at_precision.value == pytest.approx(best_recall(pooled, positives, 0.7))
    assert empty.images == 0
    assert empty.accuracy is not None
    assert math.isnan(empty.accuracy.value)


def test_the_accuracy_counts_images_that_somebody_checked() -> None:
    scores = [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]]
    targets = [[1, 0], [1, 0], [1, 0], [0, 1]]
    known = [[True, True], [True, True], [True, True], [False, False]]
    assert measure_accuracy(scores, targets, known) == pytest.approx(2 / 3)  # ties: the first
    assert measure_accuracy(scores, targets) == pytest.approx(3 / 4)
    assert math.isnan(measure_accuracy(scores, targets, np.zeros((4, 2), bool)))


def test_figures_survive_json() -> None:
    figures = RankingMetrics(3, 0.5, 0.4, 0.3, 1, {"view": 0.25, "a.b": 1.0})
    told = figures.to_dict()
    assert told["accuracy.view"] == 0.25
    assert RankingMetrics.from_dict(told) == figures
