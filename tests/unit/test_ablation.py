"""What an ablation concludes from its results, and who goes to its finals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ablation import Ablation
from loss_ablation.findings import (
    compare_finalists,
    find_effects,
    summarise_finalists,
    tell_effects,
    tell_finals,
)
from loss_ablation.grid import FAMILIES, TAUS, choose_finalists, make_grid, pick_variants
from loss_ablation.settings import Settings
from loss_ablation.training import FIGURES, measure_with_intervals
from scipy import stats
from trials.contest import Contest
from trials.intervals import make_interval
from trials.kept import keep_settings

from pipeline.errors import ConfigurationError
from pipeline.evaluation.metrics import make_ranking_metrics

GRID = {variant.name: variant for variant in make_grid()}
SETTINGS: dict[str, Any] = {
    "manifest": None,
    "taxonomy": None,
    "architecture": "a.json",
    "pretrained": None,
    "images": 10,
    "validation_share": 0.1,
    "test_share": 0.1,
    "max_side": 100,
    "taus": (0.1, 0.07),
    "variants": (),
    "screening_epochs": 1,
    "final_epochs": 1,
    "seeds": 2,
    "batch_size": 8,
    "learning_rate": 0.1,
    "resamples": 10,
}
PLAIN, TEMPERED = "plain_bce-both", "tempered_sigmoid-0.05-prior-both"


def result(name: str, gap: float, *, seed: int = 0, validation: float = 0.5) -> dict[str, Any]:
    variant = GRID[name]
    figure = {"value": gap, "low": gap - 0.02, "high": gap + 0.02}
    return {
        "variant": name,
        "family": variant.family,
        "tau": variant.tau,
        "bias": variant.bias,
        "parts": variant.parts,
        "seed": seed,
        "validation": dict.fromkeys(FIGURES, validation),
        "test": dict.fromkeys(FIGURES, figure),
    }


def diverged(name: str, seed: int = 0) -> dict[str, Any]:
    told = result(name, 0.0, seed=seed)
    del told["validation"], told["test"]
    return told | {"failed": "the training diverged"}


def finals(**gaps: list[float]) -> list[dict[str, Any]]:
    names = {"plain": PLAIN, "tempered": TEMPERED}
    return [
        result(names[who], gap, seed=seed)
        for who, values in gaps.items()
        for seed, gap in enumerate(values, 1)
    ]


def test_the_grid_has_every_choice_once() -> None:
    assert len(GRID) == len(make_grid())
    assert {variant.family for variant in GRID.values()} == set(FAMILIES)
    tempered = {
        (variant.tau, variant.bias, variant.parts)
        for variant in GRID.values()
        if variant.loss.kind == "tempered_sigmoid"
    }
    taus = [f"{tau:g}" for tau in TAUS] + ["learnt"]
    assert tempered == {
        (tau, bias, parts)
        for tau in taus
        for bias in ("none", "learnt", "prior")
        for parts in ("both", "image")
    }
    frozen = {variant.loss.kind for variant in GRID.values() if variant.parts == "neither"}
    assert frozen == {"linear_head"}


def test_variants_are_picked_by_name_and_strange_names_are_refused() -> None:
    assert pick_variants(make_grid(), ()) == make_grid()
    picked = pick_variants(make_grid(), [TEMPERED, PLAIN])
    assert [variant.name for variant in picked] == [PLAIN, TEMPERED]
    with pytest.raises(ConfigurationError, match="plain_bce-all"):
        pick_variants(make_grid(), ["plain_bce-all"])


def test_what_is_no_tower_moves_as_fast_as_it_must() -> None:
    recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "seed": 0}
    learnt = GRID["tempered_sigmoid-learnt-learnt-image"].make_optimizer(**recipe)
    assert (learnt.image_tower, learnt.text_tower) == (True, False)
    assert learnt.head_learning_rate is not None
    assert learnt.head_learning_rate > learnt.learning_rate
    linear = GRID["linear_head-prior-image"].make_optimizer(**recipe)
    assert linear.head_learning_rate == linear.learning_rate


def test_validation_images_choose_the_finalists_and_test_images_do_not() -> None:
    screened = [
        result(PLAIN, 0.3, validation=0.4),
        result("plain_bce-image", 0.9, validation=0.3),
        result("softmax-0.07-both", 0.5),
        diverged("asymmetric-learnt-prior-both"),
    ]
    assert choose_finalists(screened, 6) == [PLAIN, "softmax-0.07-both"]
    assert choose_finalists(screened, 1) == [PLAIN]


def test_differences_are_paired_by_seed_as_in_scipy() -> None:
    plain, tempered = [0.50, 0.54, 0.52, 0.49], [0.58, 0.60, 0.62, 0.57]
    results = finals(plain=plain, tempered=tempered)
    results.append(result(TEMPERED, 0.1, seed=99))  # no partner
    found = compare_finalists(results, TEMPERED, PLAIN)["gap"]
    expected = stats.ttest_rel(tempered, plain).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.n == len(plain)


def test_finalists_are_ranked_and_a_training_that_diverged_is_counted() -> None:
    results = [*finals(plain=[0.5, 0.52], tempered=[0.6, 0.62]), diverged(PLAIN, seed=3)]
    rows = summarise_finalists(results)
    assert [(row["variant"], row["seeds"], row["diverged"]) for row in rows] == [
        (TEMPERED, 2, 0),
        (PLAIN, 2, 1),
    ]
    assert rows[0]["gap"]["value"] == pytest.approx(0.61)


def test_nothing_is_claimed_where_the_interval_holds_zero() -> None:
    unsure = tell_finals(finals(plain=[0.50, 0.60, 0.55], tempered=[0.58, 0.56, 0.57]))
    assert any("nothing is shown" in line for line in unsure)
    sure = tell_finals(finals(plain=[0.50, 0.51, 0.49], tempered=[0.60, 0.61, 0.60]))
    assert not any("nothing is shown" in line for line in sure)


@pytest.mark.parametrize(
    ("tempered", "verdict"),
    [
        ([0.60, 0.61, 0.60], "it does, the whole interval lies there"),
        ([0.51, 0.52, 0.50], "it does not, the whole interval lies below"),
        ([0.50, 0.62, 0.56], "these seeds do not settle it"),
    ],
)
def test_the_promised_points_over_plain_bce_are_judged_by_the_interval(
    tempered: list[float], verdict: str
) -> None:
    told = tell_finals(finals(plain=[0.50, 0.51, 0.49], tempered=tempered))
    assert any(verdict in line for line in told)


def test_a_single_seed_shows_nothing() -> None:
    assert math.isnan(make_interval([0.5]).low)
    told = tell_finals(finals(plain=[0.2], tempered=[0.9]))
    assert any("nothing is shown" in line for line in told)
    assert any("these seeds do not settle it" in line for line in told)


def test_effects_compare_settings_that_differ_in_nothing_else() -> None:
    screened = [
        result(f"tempered_sigmoid-{tau}-{bias}-both", base + gain)
        for tau, base in (("0.1", 0.3), ("0.05", 0.5), ("learnt", 0.4))
        for bias, gain in (("none", 0.0), ("prior", 0.02))
    ]
    screened.append(result("tempered_sigmoid-0.02-none-both", 0.9))  # no partner with a prior
    screened.append(diverged("tempered_sigmoid-0.01-prior-both"))
    effects = {effect.what: effect.gap for effect in find_effects(screened)}
    prior = effects["a bias started at the prior, against none"]
    assert prior.n == 3
    assert prior.value == pytest.approx(0.02)
    told = tell_effects(screened)
    assert any("A bias started at the prior, against none: +2.0" in line for line in told)
    assert told[-1] == "Diverged with this recipe: tempered_sigmoid-0.01-prior-both."


def test_intervals_lie_around_the_figures_that_trainings_report() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(80, 12))
    targets = scores + generator.normal(size=scores.shape) > 1
    known = generator.random(scores.shape) > 0.1
    targets &= known
    measured = measure_with_intervals(scores, targets, known, resamples=50)
    expected = make_ranking_metrics(scores, targets, known)
    for figure in FIGURES:
        assert measured[figure]["value"] == pytest.approx(getattr(expected, figure), abs=1e-9)
        assert measured[figure]["low"] < measured[figure]["high"]


@pytest.mark.parametrize(("minutes", "finalists"), [(1, 2), (3, 3), (60, 4)])
def test_as_many_go_to_the_finals_as_the_time_allows(
    tmp_path: Path, minutes: float, finalists: int
) -> None:
    class Slow(Contest[Any]):
        def __init__(self) -> None:
            pass

        def estimate(self, *_: object) -> float:
            return 50.0

    names = [PLAIN, TEMPERED, "tempered_sigmoid-learnt-prior-both", "softmax-0.07-both"]
    screened = [result(name, 0.5) for name in names]
    ablation = Ablation(Settings(**SETTINGS), tmp_path, device="cpu", processes=1, minutes=minutes)
    assert ablation.choose(Slow(), screened, 10.0) == names[:finalists]
    assert bool(ablation.notes) == (finalists < len(names))
    assert all(name in ablation.notes[0] for name in names[finalists:])
    # Chosen once: what goes on later does not choose anew.
    assert ablation.choose(Slow(), screened[:1], 10.0) == names[:finalists]


def test_results_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    keep_settings(Settings(**SETTINGS), tmp_path)
    keep_settings(Settings(**SETTINGS), tmp_path)
    with pytest.raises(ConfigurationError, match="seeds"):
        keep_settings(Settings(**SETTINGS | {"seeds": 3}), tmp_path)
