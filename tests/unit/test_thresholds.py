"""Thresholds from validation images, seen on others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import CalibrationConfig
from pipeline.evaluation.metrics import recalls_at_precision
from pipeline.evaluation.thresholds import calibrate_thresholds, with_calibrated
from pipeline.taxonomy import Taxonomy, parse_taxonomy

Floats = npt.NDArray[np.float64]


def make_taxonomy(labels: int, kind: str = "multi_label") -> Taxonomy:
    listed = [{"id": f"l{index}"} for index in range(labels)]
    return parse_taxonomy(
        {"tasks": [{"id": "t", "kind": kind, "threshold": 0.3, "labels": listed}]}
    )


def draw(
    generator: np.random.Generator, images: int, prevalences: Floats, spreads: Floats
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Scores that are a little too sure, of labels that are easy (wide spread) or hard."""
    targets = generator.random((images, len(prevalences))) < prevalences
    seen = generator.normal(size=targets.shape) + spreads * targets
    logits = np.log(prevalences / (1 - prevalences)) + spreads * seen - spreads**2 / 2
    return (1 / (1 + np.exp(-0.8 * logits))).astype(np.float32), targets


@pytest.mark.parametrize("images", [500, 2000])
def test_a_precision_on_validation_holds_on_other_images_with_most_of_the_recall(
    images: int,
) -> None:
    generator = np.random.default_rng(images)
    prevalences = np.exp(generator.uniform(np.log(0.004), np.log(0.1), 60))
    spreads = generator.uniform(2.0, 5.0, 60)
    scores, targets = draw(generator, images, prevalences, spreads)
    taxonomy = make_taxonomy(60)
    chosen = calibrate_thresholds(
        scores, targets, np.ones_like(targets), taxonomy, CalibrationConfig()
    )
    tested, truth = draw(generator, 1500, prevalences, spreads)
    frequent = truth.sum(axis=0) >= 50
    predicted = tested >= np.array([one.threshold for one in chosen], np.float32)
    hits = (predicted & truth).sum(axis=0)
    precision = hits / np.maximum(predicted.sum(axis=0), 1)
    recall = hits / truth.sum(axis=0)
    best = recalls_at_precision(tested, truth, 0.9)
    assert frequent.sum() > 10
    assert precision[frequent].mean() >= 0.85
    assert recall[frequent].mean() >= 0.8 * best[frequent].mean()
    moved = with_calibrated(taxonomy, chosen)
    assert [label.threshold for _, label in moved.labels] == [one.threshold for one in chosen]


def calibrate(scores: Any, targets: Any, **config: Any) -> Any:
    scores = np.asarray(scores, np.float32)
    targets = np.asarray(targets, bool)
    known = config.pop("known", np.ones_like(targets))
    kind = config.pop("kind", "multi_label")
    taxonomy = make_taxonomy(scores.shape[1], kind)
    return calibrate_thresholds(scores, targets, known, taxonomy, CalibrationConfig(**config))


def test_without_a_prior_a_long_clean_label_gets_the_score_of_its_last_good_positive() -> None:
    scores = np.linspace(1, 0, 200)[:, None]
    targets = np.arange(200)[:, None] < 100
    (chosen,) = calibrate(scores, targets, prior_positives=0, precision=0.97)
    assert chosen.threshold == pytest.approx(scores[99, 0])
    assert (chosen.source, chosen.positives, chosen.reached) == ("validation", 100, True)


def test_a_label_without_a_positive_gets_the_threshold_of_all_labels_together() -> None:
    generator = np.random.default_rng(0)
    scores, targets = draw(generator, 400, np.full(8, 0.2), np.full(8, 4.0))
    targets[:, 7] = False
    scores[:, 7] *= 0.2
    for goal in ("precision", "f1"):
        chosen = calibrate(scores, targets, goal=goal)
        others = [one.threshold for one in chosen[:7]]
        assert min(others) / 2 < chosen[7].threshold < max(others) * 1.5
        assert (chosen[7].source, chosen[7].positives) == ("pooled", 0)
        assert {one.source for one in chosen[:7]} == {"validation"}


def test_a_rare_label_is_drawn_towards_the_others() -> None:
    generator = np.random.default_rng(3)
    scores, targets = draw(generator, 600, np.full(6, 0.2), np.full(6, 3.0))
    keep = np.flatnonzero(targets[:, 0])[:3]
    targets[:, 0] = False
    targets[keep, 0] = True
    scores[:, 0] = 0.01
    scores[keep, 0] = 0.02
    rare, alone = (
        calibrate(scores, targets, prior_positives=prior)[0].threshold for prior in (10, 0)
    )
    assert scores[:, 0].min() < alone <= 0.021
    assert rare > 0.2


def test_a_precision_out_of_reach_is_said_and_the_label_still_speaks() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random((400, 1))
    targets = generator.random((400, 1)) < 0.3
    (chosen,) = calibrate(scores, targets)
    assert not chosen.reached
    assert (scores >= chosen.threshold).sum() >= 3


def test_no_threshold_lies_below_the_least_one() -> None:
    scores = np.linspace(0.008, 0.0, 200)[:, None]
    targets = np.arange(200)[:, None] < 100
    for prior in (0, 10, 1000):
        (chosen,) = calibrate(scores, targets, prior_positives=prior)
        assert 0.01 <= chosen.threshold == np.float32(chosen.threshold) < 0.010001
    (lower,) = calibrate(scores, targets, least=0.002)
    assert 0.002 <= lower.threshold < 0.008


def test_best_f1_is_found_where_it_is() -> None:
    scores = np.linspace(1, 0, 300)[:, None]
    targets = np.arange(300)[:, None] < 60
    targets[70:290:20] = True
    (chosen,) = calibrate(scores, targets, goal="f1", prior_positives=0)
    assert chosen.threshold == pytest.approx(scores[59, 0])
    assert chosen.estimate == pytest.approx(2 * 60 / (60 + 71))


def test_labels_keep_their_thresholds_where_nothing_is_positive() -> None:
    (chosen,) = calibrate(np.full((5, 1), 0.4), np.zeros((5, 1)))
    assert (chosen.threshold, chosen.source, chosen.reached) == (0.3, "kept", False)


def test_unknown_pairs_do_not_move_a_threshold() -> None:
    generator = np.random.default_rng(2)
    scores, targets = draw(generator, 300, np.full(3, 0.2), np.full(3, 3.0))
    known = generator.random(targets.shape) < 0.8
    flipped = np.where(known, targets, ~targets)
    noisy = np.where(known, scores, 1 - scores)
    assert calibrate(scores, targets, known=known) == calibrate(noisy, flipped, known=known)


def test_of_a_single_label_task_only_the_best_label_counts() -> None:
    """Half of the images of y say x louder: no threshold of y makes them a tag."""
    scores = np.tile([[0.9, 0.8], [0.1, 0.8]], (100, 1))
    targets = np.tile([[True, False], [False, True]], (100, 1))
    _, y = calibrate(scores, targets, kind="single_label")
    _, alone = calibrate(scores, targets)
    assert y.reached
    assert not alone.reached
