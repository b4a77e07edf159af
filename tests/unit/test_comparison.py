"""A candidate against the champion: figures, intervals, verdicts, reports."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import LimitsConfig
from pipeline.evaluation.comparison import (
    Comparison,
    Labelled,
    compare,
    resampled_average_precision,
)
from pipeline.evaluation.comparison_report import make_figures, make_headline, write_table
from pipeline.evaluation.metrics import average_precision, gap
from pipeline.evaluation.verdict import find_broken

NAMES = (("scene", "pool"), ("scene", "bed"), ("room", "single"))
IMAGES = 300


def draw(seed: int = 0, *, images: int = IMAGES) -> tuple[Labelled, npt.NDArray[np.float64]]:
    """Labels of images, and the scores of a good model."""
    random = np.random.default_rng(seed)
    targets = random.random((images, len(NAMES))) < (0.5, 0.3, 0.2)
    scores = np.clip(0.55 * targets + 0.45 * random.random(targets.shape), 0, 1)
    return Labelled(targets=targets, known=random.random(targets.shape) < 0.9), scores


def run(
    champion: npt.NDArray[np.float64],
    candidate: npt.NDArray[np.float64],
    labelled: Labelled | None,
    *,
    resamples: int = 200,
) -> Comparison:
    return compare(
        NAMES,
        champion,
        candidate,
        champion_tags=champion >= 0.5,
        candidate_tags=candidate >= 0.5,
        labelled=labelled,
        resamples=resamples,
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_is_ranked_as_its_images_written_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, 40) / 5  # with ties
    positive = random.random(40) < 0.3
    counts = random.multinomial(40, np.full(40, 1 / 40), size=20)
    found = resampled_average_precision(scores, positive, counts)
    expected = [
        average_precision(np.repeat(scores, count), np.repeat(positive, count)) for count in counts
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_resample_without_a_positive_has_no_average_precision() -> None:
    counts = np.array([[0, 2], [1, 1]])
    found = resampled_average_precision(np.array([0.9, 0.1]), np.array([True, False]), counts)
    assert math.isnan(found[0])
    assert found[1] == 1.0
    empty = resampled_average_precision(np.zeros(0), np.zeros(0, bool), np.zeros((3, 0), int))
    assert np.isnan(empty).all()


def test_figures_are_those_of_each_model_alone() -> None:
    labelled, champion = draw()
    candidate = draw(1)[1]
    found = run(champion, candidate, labelled)
    known, targets = labelled.known, labelled.targets
    assert found.champion_gap == gap(champion, targets, known=known)
    assert found.gap_difference.value == found.candidate_gap - found.champion_gap
    for column, one in enumerate(found.labels):
        checked = known[:, column]
        expected = average_precision(candidate[checked, column], targets[checked, column])
        assert one.candidate_ap == expected
        assert one.positives == (targets & known)[:, column].sum()
        assert one.champion_rate == (champion[:, column] >= 0.5).mean()
        assert (one.task, one.label) == NAMES[column]
    assert run(champion, candidate, labelled) == found


def test_agreement_is_of_tags_that_either_publishes() -> None:
    champion = np.array([[0.9, 0.1, 0.9], [0.9, 0.1, 0.1]])
    candidate = np.array([[0.9, 0.9, 0.1], [0.1, 0.1, 0.1]])
    found = run(champion, candidate, None, resamples=1)
    assert found.agreement == 1 / 4
    assert [one.agreement for one in found.labels[:2]] == [1 / 2, 0.0]
    assert [one.rate_change for one in found.labels] == [0.5, 1.0, 1.0]
    assert not found.is_labelled
    silent = run(np.zeros((2, 3)), np.zeros((2, 3)), None, resamples=1)
    assert math.isnan(silent.agreement)
    assert [one.rate_change for one in silent.labels] == [0.0, 0.0, 0.0]


def test_an_interval_covers_the_difference_it_is_of() -> None:
    """Of models that are equally good, about 19 in 20 intervals of the difference hold 0."""
    held = 0
    for seed in range(60):
        labelled, champion = draw(seed, images=120)
        noise = np.random.default_rng(1000 + seed).random(champion.shape)
        other = np.clip(0.55 * labelled.targets + 0.45 * noise, 0, 1)
        mix = np.random.default_rng(2000 + seed).normal(0, 0.25, champion.shape)
        difference = run(champion + mix, other + mix[::-1], labelled, resamples=100).gap_difference
        held += difference.low <= 0 <= difference.high
    assert 50 <= held <= 60


# --- verdicts


LIMITS = LimitsConfig()


def broken(found: Comparison, limits: LimitsConfig = LIMITS) -> list[str]:
    """Names of the limits that are passed."""
    names = [told.partition(":")[0] for told in find_broken(found, limits)]
    assert set(names) <= {field.name for field in fields(LimitsConfig)}
    return names


def test_the_champion_stands_up_to_itself() -> None:
    labelled, champion = draw()
    assert broken(run(champion, champion, labelled)) == []
    assert broken(run(champion, champion, None)) == []


def test_a_model_of_shuffled_labels_is_refused_with_labels_and_without() -> None:
    labelled, champion = draw()
    shuffled = champion[np.random.default_rng(5).permutation(IMAGES)]
    assert broken(run(champion, shuffled, labelled)) == [
        "min_agreement",
        "max_gap_loss",
        "max_label_loss",
    ]
    assert broken(run(champion, shuffled, None)) == ["min_agreement"]


def test_a_better_model_is_not_refused_for_what_it_corrects() -> None:
    labelled, good = draw()
    noise = np.random.default_rng(3).normal(0, 0.15, good.shape)
    found = run(np.clip(good + noise, 0, 1), good, labelled)
    assert found.gap_difference.low > 0
    assert broken(found) == []


def test_one_label_that_is_lost_is_found_among_good_ones() -> None:
    labelled, champion = draw()
    candidate = champion.copy()
    candidate[:, 1] = np.random.default_rng(4).permutation(candidate[:, 1])
    limits = replace(LIMITS, max_gap_loss=1.0, min_agreement=0.0)
    found = run(champion, candidate, labelled)
    assert broken(found, limits) == ["max_label_loss"]
    assert "bed 0." in find_broken(found, limits)[0]
    assert broken(found, replace(limits, min_label_positives=IMAGES)) == []
    assert broken(run(champion, candidate, None), replace(limits, max_rate_change=1.0)) == []


def test_a_loss_that_may_be_chance_refuses_nobody() -> None:
    labelled, champion = draw(images=100)
    noise = np.random.default_rng(2).normal(0, 0.02, champion.shape)
    limits = replace(LIMITS, max_gap_loss=0.0, max_label_loss=0.0)
    found = run(champion, champion + np.where(labelled.targets, -1, 1) * abs(noise), labelled)
    slightly = replace(found.gap_difference, value=-0.001, low=-0.01, high=0.008)
    assert "max_gap_loss" not in broken(replace(found, gap_difference=slightly), limits)
    surely = replace(slightly, high=-0.0001)
    assert "max_gap_loss" in broken(replace(found, gap_difference=surely), limits)


def test_each_limit_refuses_what_is_beyond_it_and_allows_what_is_at_it() -> None:
    labelled, champion = draw()
    same = replace(
        run(champion, champion, labelled), champion_images_per_s=10.0, candidate_images_per_s=5.0
    )
    assert broken(same, replace(LIMITS, min_images=IMAGES, min_speed=0.5)) == []
    assert broken(same, replace(LIMITS, min_images=IMAGES + 1)) == ["min_images"]
    assert broken(replace(same, candidate_images_per_s=4.9)) == ["min_speed"]
    assert broken(replace(same, agreement=0.5)) == []
    assert broken(replace(same, agreement=0.49)) == ["min_agreement"]
    assert broken(same, replace(LIMITS, min_gap=same.candidate_gap)) == []
    assert broken(replace(same, candidate_gap=0.1), replace(LIMITS, min_gap=0.2)) == ["min_gap"]
    quarter = replace(same, labels_gone=("scene/x",))
    assert broken(quarter, replace(LIMITS, max_labels_gone=0.25)) == []
    assert broken(quarter) == ["max_labels_gone"]
    unlabelled = run(champion, champion, None)
    half = replace(unlabelled.labels[0], champion_rate=0.4, candidate_rate=0.2, tagged=50)
    rates = replace(unlabelled, labels=(half,))
    assert broken(rates) == []
    assert broken(rates, replace(LIMITS, max_rate_change=0.49)) == ["max_rate_change"]
    few = replace(rates, labels=(replace(half, tagged=49),))
    assert broken(few, replace(LIMITS, max_rate_change=0.49)) == []


def test_models_that_share_no_tag_are_refused_unless_nobody_asks() -> None:
    silent = run(np.zeros((IMAGES, 3)), np.zeros((IMAGES, 3)), None, resamples=1)
    assert broken(silent) == ["min_agreement"]
    assert broken(silent, replace(LIMITS, min_agreement=0.0)) == []


# --- reports


def test_a_headline_is_json_and_names_what_moved() -> None:
    labelled, champion = draw()
    candidate = champion.copy()
    candidate[:, 1] = np.random.default_rng(4).permutation(candidate[:, 1])
    found = run(champion, candidate, labelled)
    told = json.loads(json.dumps(make_headline(found), allow_nan=False))
    assert list(told["labels_that_lose"]) == ["bed"]
    assert told["labels_that_gain"] == {}
    value, low, high = told["gap_difference"]
    assert low <= value <= high < 0
    figures = make_figures(told)
    assert figures["comparison.gap_difference"] == value
    assert figures["comparison.champion_images_per_s"] is None
    assert "comparison.labels_that_lose" not in figures
    alone = make_headline(found, has_champion=False)
    assert alone == {key: told[key] for key in alone}
    assert not [key for key in alone if "champion" in key]
    unlabelled = make_headline(run(champion, candidate, None))
    assert "candidate_gap" not in unlabelled
    json.dumps(unlabelled, allow_nan=False)


def test_a_table_has_a_row_for_each_label_and_empty_cells_for_what_is_not_defined() -> None:
    labelled, champion = draw()
    rows = list(csv.DictReader(io.StringIO(write_table(run(champion, champion, labelled)))))
    assert [(row["task"], row["label"]) for row in rows] == list(NAMES)
    assert {row["ap_difference"] for row in rows} == {"0.0"}
    rows = list(csv.DictReader(io.StringIO(write_table(run(champion, champion, None)))))
    assert {row["champion_ap"] for row in rows} == {""}
    assert all(float(row["agreement"]) == 1.0 for row in rows)
