"""What the results of an ablation say, and no more: pure functions of them.

Intervals are Student's, at 95 % each on its own. Over seeds they say how much chance lies in first
weights and order; the test images are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from trials.intervals import Interval, as_points, as_share, make_interval, show_interval

from loss_ablation.grid import FIXED, LEARNT, PLAIN
from loss_ablation.training import FIGURES

Result = Mapping[str, Any]
_LEAST = 2
# The promise this ablation is there to check: points of GAP over plain BCE on cosines.
PROMISED = 0.05
_TEMPERED = (FIXED, LEARNT)


def summarise_finalists(finals: Sequence[Result]) -> list[dict[str, Any]]:
    """Each finalist over its seeds, best mean GAP first.

    Args:
        finals: Results of the finals.

    Returns:
        variant, family, tau, bias, parts, seeds, diverged, and each figure's interval.
    """
    rows = []
    for name in dict.fromkeys(result["variant"] for result in finals):
        of_variant = [result for result in finals if result["variant"] == name]
        done = [result for result in of_variant if "failed" not in result]
        row = {key: of_variant[0][key] for key in ("variant", "family", "tau", "bias", "parts")}
        row |= {"seeds": len(done), "diverged": len(of_variant) - len(done)}
        if done:
            row |= {
                figure: asdict(make_interval([result["test"][figure]["value"] for result in done]))
                for figure in FIGURES
            }
        rows.append(row)
    return sorted(rows, key=lambda row: -row["gap"]["value"] if "gap" in row else 1.0)


def compare_finalists(finals: Sequence[Result], first: str, second: str) -> dict[str, Interval]:
    """The first finalist minus the second, seed by seed, for each figure.

    Args:
        finals: Results of the finals.
        first: Name of a variant.
        second: Name of another.
    """
    found: dict[str, dict[int, Result]] = {first: {}, second: {}}
    for result in finals:
        if result["variant"] in found and "failed" not in result:
            found[result["variant"]][result["seed"]] = result["test"]
    seeds = sorted(found[first].keys() & found[second].keys())
    if not seeds:
        return {}
    return {
        figure: make_interval(
            [
                found[first][seed][figure]["value"] - found[second][seed][figure]["value"]
                for seed in seeds
            ]
        )
        for figure in FIGURES
    }


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one choice changes in the screening, all others being equal.

    Attributes:
        what: In words.
        gap: Difference of GAP over all settings that differ in nothing else.
    """

    what: str
    gap: Interval


def find_effects(screened: Sequence[Result]) -> list[Effect]:
    """Temperature, bias and tuned parts, each over settings that differ in nothing else.

    One seed stands behind each setting; the interval is over settings.

    Args:
        screened: Results of the screening.
    """
    tempered = [result for result in screened if result["family"] in _TEMPERED]
    effects = [
        _compare(tempered, "bias", one, other, f"a bias {said}, against none")
        for one, other, said in (
            ("prior", "none", "started at the prior"),
            ("learnt", "none", "learnt from 0"),
        )
    ]
    effects.append(
        _compare(
            tempered,
            "bias",
            "prior",
            "learnt",
            "a bias started at the prior, against learnt from 0",
        )
    )
    effects.append(
        _compare(
            screened, "parts", "both", "image", "both towers tuned, against a frozen text tower"
        )
    )
    if (best := _best_tau(tempered)) is not None:
        for tau in dict.fromkeys(result["tau"] for result in tempered):
            if tau != best:
                said = "a learnt temperature" if tau == "learnt" else f"temperature {tau}"
                effects.append(
                    _compare(tempered, "tau", best, tau, f"temperature {best}, against {said}")
                )
    return [effect for effect in effects if effect.gap.n >= _LEAST]


def _best_tau(tempered: Sequence[Result]) -> str | None:
    """The fixed temperature of the best mean validation GAP: test images choose nothing."""
    gaps: dict[str, list[float]] = {}
    for result in tempered:
        if "failed" not in result and result["family"] == FIXED:
            gaps.setdefault(result["tau"], []).append(result["validation"]["gap"])
    return max(gaps, key=lambda tau: float(np.mean(gaps[tau])), default=None)


def _compare(results: Sequence[Result], factor: str, one: str, other: str, what: str) -> Effect:
    matched: dict[tuple[Any, ...], dict[str, float]] = {}
    for result in results:
        if "failed" in result:
            continue
        # A fixed and a learnt temperature are two families, and differ in nothing but it.
        family = "tempered" if result["family"] in _TEMPERED else result["family"]
        rest = tuple(result[key] for key in ("tau", "bias", "parts") if key != factor)
        matched.setdefault((family, *rest), {})[result[factor]] = result["test"]["gap"]["value"]
    differences = [
        values[one] - values[other]
        for values in matched.values()
        if one in values and other in values
    ]
    empty = Interval(value=math.nan, low=math.nan, high=math.nan, n=0)
    return Effect(what=what, gap=make_interval(differences) if differences else empty)


def tell_finals(finals: Sequence[Result]) -> list[str]:
    """What the finals show, a sentence for each comparison.

    Args:
        finals: Results of the finals.
    """
    rows = [row for row in summarise_finalists(finals) if "gap" in row]
    if not rows:
        return ["Every finalist diverged: nothing can be said."]
    best, *others = rows
    lines = [
        f"Best mean GAP on the clean test images: {best['variant']},"
        f" {show_interval(Interval(**best['gap']), as_share)} over {best['seeds']} seeds."
    ]
    for other in others:
        found = compare_finalists(finals, best["variant"], other["variant"])
        if found:
            said = _tell_difference(found["gap"], "seeds")
            lines.append(f"{best['variant']} against {other['variant']}: {said}")
    lines += _tell_promise(finals, rows)
    return lines


def tell_effects(screened: Sequence[Result]) -> list[str]:
    """What the screening shows, a sentence for each choice.

    Args:
        screened: Results of the screening.
    """
    lines = [
        f"{effect.what[0].upper()}{effect.what[1:]}: {_tell_difference(effect.gap, 'settings')}"
        for effect in find_effects(screened)
    ]
    if failed := [result["variant"] for result in screened if "failed" in result]:
        lines.append(f"Diverged with this recipe: {', '.join(failed)}.")
    return lines


def _tell_promise(finals: Sequence[Result], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each tempered finalist against plain BCE: is it worth what was promised of it?"""
    plain = [row["variant"] for row in rows if row["family"] == PLAIN]
    lines = []
    for tempered in (row["variant"] for row in rows if row["family"] in _TEMPERED):
        found = compare_finalists(finals, tempered, plain[0]) if plain else {}
        if not found:
            continue
        gap = found["gap"]
        if gap.low >= PROMISED:
            verdict = "it does, the whole interval lies there"
        elif gap.high < PROMISED:
            verdict = "it does not, the whole interval lies below"
        else:
            verdict = "these seeds do not settle it"
        lines.append(
            f"{tempered} should beat plain BCE on cosines ({plain[0]}) by {100 * PROMISED:g} points"
            f" of GAP: {verdict}, {show_interval(gap, as_points)} points."
        )
    return lines or ["Tempered sigmoid and plain BCE did not both finish: they are not compared."]


def _tell_difference(gap: Interval, over: str) -> str:
    said = f"{show_interval(gap, as_points)} points of GAP over {gap.n} {over}"
    return f"{said}; the interval holds 0, so nothing is shown." if gap.holds_zero else f"{said}."
