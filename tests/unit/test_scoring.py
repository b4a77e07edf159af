"""Scores of stored vectors against the formula, one pair at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.models.scoring import score


def unit_rows(n: int, d: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("tau", "bias"), [(0.07, -2.0), (0.01, 0.0), (1.0, 3.0)])
def test_scores_equal_a_double_loop(tau: float, bias: float) -> None:
    images, labels = unit_rows(4, 64, 0), unit_rows(3, 64, 1)
    scores = score(images, labels, tau, bias)
    assert scores.dtype == np.float32
    for i in range(4):
        for j in range(3):
            s = math.fsum(float(a) * float(b) for a, b in zip(images[i], labels[j], strict=True))
            assert scores[i, j] == pytest.approx(1 / (1 + math.exp(-(s / tau + bias))), rel=1e-6)


def test_a_vector_has_the_same_scores_in_any_batch() -> None:
    images, labels = unit_rows(300, 512, 0), unit_rows(100, 512, 1)
    together = score(images, labels, 0.01, -1.0)
    for i in (0, 7, 299):
        alone = score(images[i : i + 1], labels, 0.01, -1.0)
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-7)


def test_scores_survive_the_table_they_are_stored_in() -> None:
    images, labels = unit_rows(5, 512, 0), unit_rows(9, 512, 1)
    stored = np.array([row.tolist() for row in images], dtype=np.float32)
    np.testing.assert_array_equal(
        score(images, labels, 0.01, 0.0), score(stored, labels, 0.01, 0.0)
    )


def test_extreme_logits_give_0_and_1_without_a_warning() -> None:
    axis = np.array([[1.0, 0.0]], dtype=np.float32)
    both = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    assert score(axis, both, 1e-4, 0.0).tolist() == [[1.0, 0.0]]


def test_no_images_have_no_scores() -> None:
    assert score(unit_rows(0, 8, 0), unit_rows(3, 8, 1), 0.1, 0.0).shape == (0, 3)
