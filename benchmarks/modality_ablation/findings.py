"""What the results say, and no more: pure functions of them.

Intervals are Student's over seeds, 95 % each on its own: they say how much chance lies in an arm's
first weights, order and disturbances; towers and test images are the same for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from trials.intervals import Interval, as_points, make_interval, show_interval

from modality_ablation.arms import ARMS, CONCATENATION, FULL, IMAGE, TEXT
from modality_ablation.tasks import TOLD_BY

Result = Mapping[str, Any]
Figure = Literal["accuracy", "recall_at_precision"]
MEAN_OF_TASKS = "mean"
# How far a model without a modality may lie behind one that never had it: points of accuracy.
ALLOWED = 0.03


def list_tasks(results: Sequence[Result]) -> list[str]:
    """The attributes, then ``MEAN_OF_TASKS``."""
    done = next(result for result in results if "failed" not in result)
    return [*done["accuracy"], MEAN_OF_TASKS]


def summarise(results: Sequence[Result], figure: Figure) -> dict[str, dict[str, Interval]]:
    """Each arm over its seeds: an interval of each attribute and of their mean.

    Args:
        results: Of all trainings.
        figure: Which figure.
    """
    rows: dict[str, dict[str, Interval]] = {}
    for arm in ARMS:
        by_seed = _figures(results, arm, lambda result: result[figure])
        if by_seed:
            rows[arm] = {
                task: make_interval([seed[task] for seed in by_seed.values()])
                for task in list_tasks(results)
            }
    return rows


def compare(
    results: Sequence[Result], first: str, second: str, figure: Figure
) -> dict[str, Interval]:
    """The first arm minus the second, seed by seed; nothing without a common seed.

    Args:
        results: Of all trainings.
        first: Name of an arm.
        second: Name of another.
        figure: Which figure.
    """
    one = _figures(results, first, lambda result: result[figure])
    other = _figures(results, second, lambda result: result[figure])
    return _subtract(one, other, list_tasks(results))


def find_noise_lines(results: Sequence[Result], arm: str) -> list[dict[str, Any]]:
    """The noise protocol of an arm over its seeds.

    Args:
        results: Of all trainings.
        arm: One that reads both modalities.

    Returns:
        Of each point: modality, how, rate, accuracy (mean of the attributes) and weight (of the
        spoilt modality, mean of the attributes), an interval each.
    """
    points: dict[tuple[str, str, float], list[Mapping[str, Any]]] = {}
    for result in _done(results, arm):
        for point in result["noise"]:
            key = (point["modality"], point["how"], point["rate"])
            points.setdefault(key, []).append(point)
    return [
        {
            "modality": modality,
            "how": how,
            "rate": rate,
            "accuracy": make_interval([_mean(point["accuracy"]) for point in found]),
            "weight": make_interval([_mean(point["weight"]) for point in found]),
        }
        for (modality, how, rate), found in points.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something the ablation is there to check.

    Attributes:
        what: In words.
        holds: Whether the whole interval says so; None where these seeds do not settle it.
        shown: The figures.
    """

    what: str
    holds: bool | None
    shown: str


def check_claims(results: Sequence[Result]) -> list[Claim]:
    """What is promised of the whole model, each with what was measured.

    Args:
        results: Of all trainings.
    """
    claims = [
        _claim_above(
            f"the whole model beats {arm}",
            compare(results, FULL, arm, "accuracy").get(MEAN_OF_TASKS),
            0.0,
        )
        for arm in (IMAGE, TEXT, CONCATENATION)
    ]
    for modality, how, alone in (("text", "emptied", IMAGE), ("image", "noise", TEXT)):
        spoilt = _spoilt_accuracy(results, FULL, modality, how)
        without = _figures(results, alone, lambda result: result["accuracy"])
        claims.append(
            _claim_above(
                f"with every {modality} {how} it lies at most {100 * ALLOWED:g} points behind"
                f" {alone}",
                _subtract(spoilt, without, [MEAN_OF_TASKS]).get(MEAN_OF_TASKS),
                -ALLOWED,
            )
        )
    swapped = [_spoilt_accuracy(results, arm, "text", "swapped") for arm in (FULL, CONCATENATION)]
    claims.append(
        _claim_above(
            "with every text swapped it beats concatenation",
            _subtract(swapped[0], swapped[1], [MEAN_OF_TASKS]).get(MEAN_OF_TASKS),
            0.0,
        )
    )
    return claims + _claim_falling_weights(results)


def tell_claims(claims: Sequence[Claim]) -> list[str]:
    """A sentence for each."""
    verdicts = {True: "holds", False: "does not hold", None: "is not settled by these seeds"}
    return [f"That {claim.what} {verdicts[claim.holds]}: {claim.shown}." for claim in claims]


def _claim_above(what: str, difference: Interval | None, least: float) -> Claim:
    if difference is None:
        return Claim(what=what, holds=None, shown="no common seed")
    holds = True if difference.low > least else False if difference.high < least else None
    shown = f"{show_interval(difference, as_points)} points of mean accuracy"
    return Claim(what=what, holds=holds, shown=shown)


def _claim_falling_weights(results: Sequence[Result]) -> list[Claim]:
    """Of each kind of noise: on the attributes' mean, and on the one that needs the modality."""
    kinds = dict.fromkeys(
        (point["modality"], point["how"])
        for result in _done(results, FULL)
        for point in result["noise"]
    )
    return [
        _claim_falling(results, modality, how, task)
        for modality, how in kinds
        for task in (MEAN_OF_TASKS, TOLD_BY[modality])
    ]


def _claim_falling(results: Sequence[Result], modality: str, how: str, task: str) -> Claim:
    by_rate: dict[float, list[float]] = {}
    for result in _done(results, FULL):
        for point in result["noise"]:
            if (point["modality"], point["how"]) == (modality, how):
                weights = {**point["weight"], MEAN_OF_TASKS: _mean(point["weight"])}
                by_rate.setdefault(point["rate"], []).append(weights[task])
    series = [by_rate[rate] for rate in sorted(by_rate)]
    means = [float(np.mean(values)) for values in series]
    change = make_interval(
        [last - first for first, last in zip(series[0], series[-1], strict=True)]
    )
    steady = all(after < before for before, after in itertools.pairwise(means))
    holds = True if steady and change.high < 0 else False if change.low > 0 else None
    said = "on average" if task == MEAN_OF_TASKS else f"for {task}"
    return Claim(
        what=f"the weight of the {modality} falls {said} as more of it is {how}",
        holds=holds,
        shown=f"{', '.join(f'{mean:.3f}' for mean in means)};"
        f" {show_interval(change, as_points)} points from none to all",
    )


def _done(results: Sequence[Result], arm: str) -> list[Result]:
    return [result for result in results if result["arm"] == arm and "failed" not in result]


def _mean(figures: Mapping[str, float]) -> float:
    return float(np.mean(list(figures.values())))


def _figures(
    results: Sequence[Result], arm: str, pick: Callable[[Result], Mapping[str, float]]
) -> dict[int, dict[str, float]]:
    """Figures of each attribute and their mean, by seed."""
    picked = {result["seed"]: pick(result) for result in _done(results, arm)}
    return {seed: {**found, MEAN_OF_TASKS: _mean(found)} for seed, found in picked.items()}


def _spoilt_accuracy(
    results: Sequence[Result], arm: str, modality: str, how: str
) -> dict[int, dict[str, float]]:
    """Accuracy with all of a modality spoilt, by seed."""

    def pick(result: Result) -> Mapping[str, float]:
        points = [
            point
            for point in result["noise"]
            if (point["modality"], point["how"]) == (modality, how)
        ]
        worst: Mapping[str, float] = max(points, key=lambda point: point["rate"])["accuracy"]
        return worst

    return _figures(results, arm, pick)


def _subtract(
    one: Mapping[int, Mapping[str, float]],
    other: Mapping[int, Mapping[str, float]],
    tasks: Sequence[str],
) -> dict[str, Interval]:
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return {}
    return {
        task: make_interval([one[seed][task] - other[seed][task] for seed in seeds])
        for task in tasks
    }
