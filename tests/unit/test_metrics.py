"""Metrics against scikit-learn and against plain loops over the definition."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score

from pipeline.evaluation.metrics import (
    average_precision,
    average_precisions,
    gap,
    label_frequencies,
    macro_map,
    make_ranking_metrics,
)

Array = npt.NDArray[np.float64]


def gap_by_loops(scores: Array, targets: Array, k: int) -> float:
    """YouTube-8M's GAP, one triplet at a time: top k of each image, pooled, average precision."""
    pool: list[tuple[float, float]] = []
    for image_scores, image_targets in zip(scores, targets, strict=True):
        best = sorted(range(len(image_scores)), key=lambda i: image_scores[i], reverse=True)[:k]
        pool += [(float(image_scores[i]), float(image_targets[i])) for i in best]
    pool.sort(key=lambda pair: pair[0], reverse=True)
    hits, total = 0.0, 0.0
    for rank, (_, hit) in enumerate(pool, start=1):
        if hit > 0:
            hits += 1
            total += hits / rank
    return total / float(targets.sum())


def random_set(seed: int, images: int, labels: int, *, levels: int | None) -> tuple[Array, Array]:
    """Random scores (with ``levels`` few different values) and long-tailed targets."""
    generator = np.random.default_rng(seed)
    scores = generator.random((images, labels))
    if levels is not None:
        scores = np.floor(scores * levels) / levels
    prevalence = 0.5 / np.arange(1, labels + 1)
    targets = (generator.random((images, labels)) < prevalence).astype(np.float64)
    targets[0, 0] = 1.0
    return scores, targets


SHAPES = [(1, 1), (1, 12), (40, 1), (57, 13), (200, 30)]


@pytest.mark.parametrize("levels", [None, 2, 7])
@pytest.mark.parametrize("k", [1, 3, 10, 1000])
@pytest.mark.parametrize(("images", "labels"), SHAPES)
def test_gap_equals_youtube8m_by_plain_loops(
    images: int, labels: int, k: int, levels: int | None
) -> None:
    for seed in range(3):
        scores, targets = random_set(seed, images, labels, levels=levels)
        assert gap(scores, targets, k=k) == pytest.approx(
            gap_by_loops(scores, targets, k), abs=1e-9
        )


def test_gap_over_all_labels_is_micro_average_precision_without_ties() -> None:
    scores, targets = random_set(5, 90, 17, levels=None)
    expected = average_precision_score(targets, scores, average="micro")
    assert gap(scores, targets) == pytest.approx(expected, abs=1e-9)


def test_gap_counts_positives_outside_the_k_best() -> None:
    # One hit at rank 1 of 2 positives; the other one is outside the single best.
    assert gap([[0.9, 0.8]], [[1, 1]], k=1) == pytest.approx(0.5)


@pytest.mark.parametrize("levels", [None, 2, 7])
@pytest.mark.parametrize(("images", "labels"), SHAPES)
def test_average_precision_equals_scikit_learn_with_ties(
    images: int, labels: int, levels: int | None
) -> None:
    scores, targets = random_set(3, images, labels, levels=levels)
    by_label = average_precisions(scores, targets)
    with_positive = targets.sum(axis=0) > 0
    assert np.array_equal(np.isnan(by_label), ~with_positive)
    for column in np.flatnonzero(with_positive):
        expected = average_precision_score(targets[:, column], scores[:, column])
        assert by_label[column] == pytest.approx(expected, abs=1e-9)
        assert average_precision(scores[:, column], targets[:, column]) == by_label[column]


def test_macro_map_equals_scikit_learn_and_counts_empty_labels() -> None:
    scores, targets = random_set(8, 60, 9, levels=5)
    targets[:, [2, 6]] = 0.0
    targets[1, [0, 1, 3, 4, 5, 7, 8]] = 1.0
    full = [0, 1, 3, 4, 5, 7, 8]
    expected = average_precision_score(targets[:, full], scores[:, full], average="macro")
    result = macro_map(scores, targets)
    assert result.value == pytest.approx(expected, abs=1e-9)
    assert result.labels_without_positive == 2


def test_unknown_pairs_count_nowhere() -> None:
    scores, targets = random_set(4, 50, 8, levels=None)
    known = np.random.default_rng(1).random(scores.shape) < 0.7
    flipped = np.where(known, targets, 1.0 - targets)
    noisy = np.where(known, scores, 5.0)
    for k in (None, 3):
        expected = gap(scores, np.where(known, targets, 0.0), k=k, known=known)
        assert gap(noisy, flipped, k=k, known=known) == expected
    for column in range(8):
        rows = known[:, column]
        expected_ap = average_precision(scores[rows, column], targets[rows, column])
        assert average_precisions(noisy, flipped, known)[column] == expected_ap
    assert label_frequencies(flipped, known) == pytest.approx(
        [targets[known[:, c], c].mean() for c in range(8)]
    )


def test_gap_leaves_out_unknown_pairs_before_taking_the_k_best() -> None:
    known = np.array([[False, True, True]])
    assert gap([[0.9, 0.8, 0.7]], [[0, 1, 0]], k=1, known=known) == 1.0


def test_figures_without_a_positive_are_nan_without_a_warning_and_null_in_json() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = make_ranking_metrics(np.zeros((3, 2)), np.zeros((3, 2)))
    assert math.isnan(metrics.gap)
    assert math.isnan(metrics.macro_map)
    assert metrics.to_dict() == {
        "images": 3,
        "gap": None,
        "gap_at_10": None,
        "macro_map": None,
        "labels_without_positive": 2,
    }


def test_label_frequencies_as_scores_rank_labels_alike_for_every_image() -> None:
    targets = np.array([[1, 0], [1, 1], [1, 0], [0, 0]])
    frequencies = label_frequencies(targets)
    assert frequencies.tolist() == [0.75, 0.25]
    scores = np.tile(frequencies, (4, 1))
    # First label: 3 hits at ranks 1, 2, 3; second label: 1 hit, at rank 6.
    assert gap(scores, targets) == pytest.approx((1 + 1 + 1 + 4 / 6) / 4)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[0.5, math.nan]], [[1, 0]], "finite"),
        ([[0.5, 0.1]], [[2, 0]], "0 and 1"),
        ([[0.5, 0.1]], [[1]], "shape"),
        ([0.5], [1], "shape"),
    ],
)
def test_wrong_input_is_named(scores: object, targets: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gap(scores, targets)  # type: ignore[arg-type]
