"""Weighted figures against figures of sets that were really drawn, and their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.config import FiguresConfig
from pipeline.evaluation.calibration_error import make_calibration_bins
from pipeline.evaluation.figures import measure
from pipeline.evaluation.metrics import (
    average_precisions,
    gap,
    macro_map,
    micro_map,
    recalls_at_precision,
)
from pipeline.evaluation.resampling import (
    WeightedCalibration,
    draw_weights,
    rank_labels,
    rank_pooled,
    weigh_decisions,
)


def make_set(images: int = 50, labels: int = 6, levels: int | None = None) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(images)
    targets = generator.random((images, labels)) < 0.4 / np.arange(1, labels + 1)
    scores = np.clip(0.3 * targets + 0.7 * generator.random((images, labels)), 0, 1)
    if levels:
        scores = np.floor(scores * levels) / levels
    return scores, targets, generator.random((images, labels)) < 0.9


@pytest.mark.parametrize("levels", [None, 4])
def test_weighted_figures_equal_those_of_the_images_drawn(levels: int | None) -> None:
    scores, targets, known = make_set(levels=levels)
    predicted = scores >= 0.5
    (itself, weights) = draw_weights(len(scores), 5, seed=3)
    assert itself.tolist() == [[1.0] * 50]
    assert weights.sum(axis=1).tolist() == [50.0] * 5
    assert (weights != weights[0]).any()
    measured = [one.measure(weights, 0.6) for one in rank_labels(scores, targets, known)]
    by_label, at_precision = [one for one, _ in measured], [one for _, one in measured]
    micro = rank_pooled(scores, targets, known, tied=True).average_precision(weights)
    decisions = weigh_decisions(weights, predicted, targets, known)
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(50), weight.astype(int))
        s, t, k = scores[drawn], targets[drawn], known[drawn]
        np.testing.assert_allclose(
            [one[row] for one in by_label], average_precisions(s, t, k), rtol=0, atol=1e-9
        )
        np.testing.assert_allclose(
            [one[row] for one in at_precision],
            recalls_at_precision(s, t, 0.6, k),
            rtol=0,
            atol=1e-9,
        )
        assert micro[row] == pytest.approx(micro_map(s, t, k), abs=1e-9)
        assert decisions.hits[row].tolist() == (predicted[drawn] & t & k).sum(axis=0).tolist()


def test_gap_of_a_resample_counts_positives_outside_the_k_best() -> None:
    scores, targets, known = make_set()
    (_, weights) = draw_weights(len(scores), 4, seed=1)
    found = rank_pooled(scores, targets, known, k=2).average_precision(weights)
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(50), weight.astype(int))
        s, t, k = scores[drawn], targets[drawn] & known[drawn], known[drawn]
        best = np.argsort(-np.where(k, s, -1), axis=1)[:, :2]
        pooled = np.take_along_axis(s, best, 1), np.take_along_axis(t, best, 1)
        # copies of an image share a rank, as in scikit-learn; its recall knows only the pool
        expected = average_precision_score(pooled[1].ravel(), pooled[0].ravel())
        assert found[row] == pytest.approx(expected * pooled[1].sum() / t.sum(), abs=1e-9)


def test_calibration_error_of_a_resample_keeps_the_bins_of_the_set() -> None:
    scores, targets, known = make_set()
    weighted = WeightedCalibration(scores, targets, known, bins=5)
    expected = make_calibration_bins(scores[known], targets[known], 5).error
    assert weighted.error(np.ones((1, 50))) == pytest.approx([expected], abs=1e-9)
    assert weighted.error(np.full((1, 50), 3.0)) == pytest.approx([expected], abs=1e-9)
    half = np.zeros((1, 50))
    half[0, :25] = 1.0
    assert weighted.error(half)[0] != pytest.approx(expected, abs=1e-3)


def test_the_figures_of_the_set_itself_are_those_of_the_plain_metrics() -> None:
    scores, targets, known = make_set(levels=9)
    predicted = scores >= 0.6
    targets[:, 5] = False
    config = FiguresConfig(resamples=20, majority_positives=8, precision=0.7, calibration_bins=4)
    found = measure(scores, targets, known, predicted, config)
    head = {name: interval.value for name, interval in found.headline.items()}
    expected = {
        "gap": gap(scores, targets, known=known),
        "gap_at_10": gap(scores, targets, k=10, known=known),
        "micro_map": micro_map(scores, targets, known),
        "macro_map": macro_map(scores, targets, known).value,
        "macro_map_majority": macro_map(scores, targets, known, min_positives=8).value,
        "recall_at_precision": np.nanmean(recalls_at_precision(scores, targets, 0.7, known)),
        "calibration_error": make_calibration_bins(scores[known], targets[known], 4).error,
    }
    for name, value in expected.items():
        assert head[name] == pytest.approx(value, abs=1e-9), name
    assert found.labels_without_positive == 1
    assert found.majority_labels == macro_map(scores, targets, known, min_positives=8).labels
    assert np.isnan(found.by_label["average_precision"][5].value)
    assert found.by_label["average_precision"][5].to_dict()["value"] is None
    assert set(found.by_label) == {
        *("average_precision", "precision", "recall", "f1"),
        *("recall_at_precision", "calibration_error"),
    }


def test_intervals_follow_from_the_seed_and_hold_the_figure() -> None:
    scores, targets, known = make_set(images=300)
    predicted = scores >= 0.6

    def measured(seed: int, resamples: int = 200) -> Any:
        config = FiguresConfig(resamples=resamples, seed=seed)
        return measure(scores, targets, known, predicted, config).headline

    first = measured(0)
    assert first == measured(0)
    assert first["macro_recall"] != measured(1)["macro_recall"]
    for name in ("gap", "micro_map", "micro_recall", "macro_f1"):
        assert first[name].low < first[name].value < first[name].high, name
    # recall of all pairs is a share: its interval is about that of a binomial, made wider by
    # positives that share an image
    hits = float((targets & known).sum())
    value = first["micro_recall"].value
    width = 2 * 1.96 * np.sqrt(value * (1 - value) / hits)
    assert first["micro_recall"].high - first["micro_recall"].low == pytest.approx(width, rel=0.3)
    assert np.isnan(measured(0, resamples=0)["gap"].low)


def test_one_image_and_no_positives_are_no_error() -> None:
    nothing = np.zeros((1, 2), bool)
    found = measure(np.full((1, 2), 0.3), nothing, ~nothing, nothing, FiguresConfig(resamples=5))
    assert np.isnan(found.headline["gap"].value)
    assert found.headline["calibration_error"].value == pytest.approx(0.3)
