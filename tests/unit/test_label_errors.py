"""Moved labels are found again, in embeddings as a trained tower makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config import LabelErrorsConfig
from pipeline.evaluation.label_errors import find_label_errors, predict_out_of_sample


def make_set(images: int = 1500, labels: int = 12, share: float = 0.2) -> Any:
    """Embeddings, true labels, and given ones with a share of the positives moved."""
    generator = np.random.default_rng(5)
    truth = generator.random((images, labels)) < 0.4 / np.arange(1, labels + 1) ** 0.7
    directions = generator.normal(size=(labels, 32))
    noise = generator.normal(size=(images, 32))
    embeddings = truth @ directions + 0.8 * noise
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    given = truth.copy()
    for image, label in np.argwhere(truth):
        free = np.flatnonzero(~truth[image] & ~given[image])
        if generator.random() < share and len(free):
            given[image, label] = False
            given[image, generator.choice(free)] = True
    return embeddings.astype(np.float32), truth, given


def test_moved_labels_stand_at_the_top() -> None:
    embeddings, truth, given = make_set()
    moved = int((given & ~truth).sum())
    found = find_label_errors(embeddings, given, np.ones_like(given), LabelErrorsConfig())
    assert len(found) >= moved > 200
    hits = [truth[one.image, one.label] != given[one.image, one.label] for one in found[:moved]]
    assert np.mean(hits) >= 0.75
    assert {one.kind for one in found[:moved]} == {"missing", "wrong"}
    assert all((one.kind == "wrong") == given[one.image, one.label] for one in found)
    confident = [one.confident for one in found]
    assert confident == sorted(confident, reverse=True)
    assert len({(one.image, one.label) for one in found}) == len(found)


def test_unknown_pairs_are_neither_learnt_from_nor_suspected() -> None:
    embeddings, _, given = make_set(400)
    known = np.random.default_rng(1).random(given.shape) < 0.8
    config = LabelErrorsConfig()
    flipped = np.where(known, given, ~given)
    found = find_label_errors(embeddings, flipped, known, config)
    assert found
    assert all(known[one.image, one.label] for one in found)
    np.testing.assert_array_equal(
        predict_out_of_sample(embeddings, flipped, known, config),
        predict_out_of_sample(embeddings, given, known, config),
    )


def test_an_image_is_never_scored_by_a_model_that_saw_it() -> None:
    """Labels that follow from nothing get their frequency, not themselves."""
    generator = np.random.default_rng(0)
    given = generator.random((300, 1)) < 0.5
    embeddings = generator.normal(size=(300, 200)).astype(np.float32)
    scores = predict_out_of_sample(embeddings, given, np.ones_like(given), LabelErrorsConfig())
    assert abs(np.corrcoef(scores[:, 0], given[:, 0])[0, 1]) < 0.25


def test_rare_labels_and_few_images_are_no_error() -> None:
    embeddings, _, given = make_set(60)
    given[:, 3] = False
    given[:2, 3] = True
    given[:, 4] = True
    known = np.ones_like(given)
    known[:, 5] = False
    find_label_errors(embeddings, given, known, LabelErrorsConfig())
    assert find_label_errors(embeddings[:3], given[:3], known[:3], LabelErrorsConfig()) == []
    limited = find_label_errors(embeddings, given, known, LabelErrorsConfig(max_rows=2))
    assert len(limited) == 2
