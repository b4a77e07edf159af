"""Figures at thresholds, calibration error and pooled precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from pipeline.evaluation.calibration_error import make_calibration_bins
from pipeline.evaluation.confusions import find_confusions, find_cooccurrences
from pipeline.evaluation.decisions import count_decisions
from pipeline.evaluation.metrics import macro_map, micro_map, recalls_at_precision
from pipeline.evaluation.operating_points import find_operating_points

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[Floats, Bools]:
    """Scores with many ties or none, labels that are empty or full, down to one image."""
    images = draw(st.sampled_from([1, 2, 7, 60]))
    labels = draw(st.sampled_from([1, 2, 9]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = generator.random((images, labels))
    if levels := draw(st.sampled_from([None, 1, 2, 5])):
        scores = np.floor(scores * levels) / levels
    prevalence = generator.choice([0.0, 0.1, 0.5, 1.0], labels)
    return scores, generator.random((images, labels)) < prevalence


@settings(max_examples=60, deadline=None)
@given(labelled_scores())
def test_micro_map_equals_scikit_learn(sample: tuple[Floats, Bools]) -> None:
    scores, targets = sample
    if not targets.any():
        assert np.isnan(micro_map(scores, targets))
        return
    expected = average_precision_score(targets.ravel(), scores.ravel())
    assert micro_map(scores, targets) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(labelled_scores(), st.integers(1, 40))
def test_macro_map_over_majority_labels_equals_scikit_learn(
    sample: tuple[Floats, Bools], least: int
) -> None:
    scores, targets = sample
    majority = targets.sum(axis=0) >= least
    found = macro_map(scores, targets, min_positives=least)
    assert found.labels == majority.sum()
    assert found.labels_without_positive == (~targets.any(axis=0)).sum()
    if not majority.any():
        assert np.isnan(found.value)
        return
    expected = np.mean(
        [average_precision_score(targets[:, c], scores[:, c]) for c in np.flatnonzero(majority)]
    )
    assert found.value == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(labelled_scores(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_precision_recall_and_f1_equal_scikit_learn(
    sample: tuple[Floats, Bools], threshold: float
) -> None:
    scores, targets = sample
    predicted = scores >= threshold
    counts = count_decisions(predicted, targets, np.ones_like(targets))
    for average, figures in (
        (None, counts),
        ("micro", counts.pooled()),
    ):
        expected = precision_recall_fscore_support(
            targets if targets.shape[1] > 1 else np.hstack([targets, np.zeros_like(targets)]),
            predicted if targets.shape[1] > 1 else np.hstack([predicted, np.zeros_like(targets)]),
            average=average,
            zero_division=np.nan,
        )[:3]
        for found, value in zip(
            (figures.precision, figures.recall, figures.f1), expected, strict=True
        ):
            np.testing.assert_allclose(
                found, np.atleast_1d(value)[: len(found)], rtol=0, atol=1e-9, equal_nan=True
            )


def test_a_label_that_is_never_predicted_earns_no_precision_in_the_mean() -> None:
    targets = np.array([[True, True, False], [False, True, False]])
    predicted = np.array([[True, False, False], [False, False, True]])
    counts = count_decisions(predicted, targets, np.ones_like(targets))
    assert np.isnan(counts.precision[1])
    assert counts.macro(counts.precision) == pytest.approx(0.5)
    assert counts.macro(counts.recall) == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(labelled_scores(), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_recall_at_a_precision_equals_scikit_learns_curve(
    sample: tuple[Floats, Bools], precision: float
) -> None:
    scores, targets = sample
    found = recalls_at_precision(scores, targets, precision)
    for column, recall in enumerate(found):
        if not targets[:, column].any():
            assert np.isnan(recall)
            continue
        precisions, recalls, _ = precision_recall_curve(targets[:, column], scores[:, column])
        # the curve's last point, precision 1 at recall 0, belongs to no threshold
        expected = recalls[:-1][precisions[:-1] >= precision].max(initial=0.0)
        assert recall == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(labelled_scores(), st.sampled_from([1, 3, 15]))
def test_calibration_bins_equal_scikit_learns_of_equal_mass(
    sample: tuple[Floats, Bools], bins: int
) -> None:
    scores, targets = sample[0].ravel(), sample[1].ravel()
    shares, means = calibration_curve(targets, scores, n_bins=bins, strategy="quantile")
    found = make_calibration_bins(scores, targets, bins)
    np.testing.assert_allclose(found.shares, shares, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.scores, means, rtol=0, atol=1e-9)
    assert found.pairs.sum() == len(scores)
    expected = float((np.abs(shares - means) * found.pairs).sum() / len(scores))
    assert found.error == pytest.approx(expected, abs=1e-9)


def test_calibration_error_of_scores_that_are_always_off_by_a_tenth() -> None:
    scores = np.repeat([0.2, 0.6], 1000)
    targets = np.concatenate([np.arange(1000) < 300, np.arange(1000) < 700])
    assert make_calibration_bins(scores, targets, 2).error == pytest.approx(0.1)
    assert np.isnan(make_calibration_bins(np.zeros(0), np.zeros(0, bool), 2).error)


def test_a_positive_that_is_no_candidate_is_missed_at_every_threshold() -> None:
    points = find_operating_points(
        np.array([0.9, 0.8, 0.7]), np.array([True, True, False]), np.array([True, False, True])
    )
    assert points.thresholds.tolist() == [0.9, 0.7]
    assert points.recall.tolist() == [0.5, 0.5]
    assert points.precision.tolist() == [1.0, 0.5]


def test_confusions_count_what_was_predicted_where_another_label_was_missed() -> None:
    targets = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    predicted = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]], bool)
    known = np.ones_like(targets)
    found = find_confusions(predicted, targets, known, limit=5)
    assert [(p.first, p.second, p.images, p.share) for p in found] == [
        (0, 1, 2, 1.0),
        (0, 2, 1, 0.5),
    ]
    known[1] = False
    assert [p.images for p in find_confusions(predicted, targets, known, limit=5)] == [1]
    (pair,) = find_cooccurrences(targets, np.ones_like(targets), limit=5)
    assert (pair.first, pair.second, pair.images, pair.share) == (1, 2, 1, 4.0)
