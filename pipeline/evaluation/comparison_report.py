"""A comparison for people and machines: headline figures, the labels that moved, a table as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.evaluation.comparison import Comparison, Interval, LabelComparison

# Of the labels that moved most, in a summary of one line.
_LABELS_TOLD = 5
_OF_ONE = ("images", "candidate_gap", "candidate_images_per_s")

_COLUMNS: tuple[tuple[str, Callable[[LabelComparison], float | int | str]], ...] = (
    ("task", lambda one: one.task),
    ("label", lambda one: one.label),
    ("positives", lambda one: one.positives),
    ("champion_ap", lambda one: one.champion_ap),
    ("candidate_ap", lambda one: one.candidate_ap),
    ("ap_difference", lambda one: one.ap_difference.value),
    ("ap_difference_low", lambda one: one.ap_difference.low),
    ("ap_difference_high", lambda one: one.ap_difference.high),
    ("champion_rate", lambda one: one.champion_rate),
    ("candidate_rate", lambda one: one.candidate_rate),
    ("tagged", lambda one: one.tagged),
    ("agreement", lambda one: one.agreement),
)


def make_headline(found: Comparison, *, has_champion: bool = True) -> dict[str, Any]:
    """The figures of a summary, plain JSON data: what is not defined is None.

    Args:
        found: The comparison.
        has_champion: Without one, only what is said of the candidate alone.
    """
    told: dict[str, Any] = {
        "images": found.images,
        "agreement": _plain(found.agreement),
        "labels_new": len(found.labels_new),
        "labels_gone": len(found.labels_gone),
        "champion_images_per_s": _plain(found.champion_images_per_s, 1),
        "candidate_images_per_s": _plain(found.candidate_images_per_s, 1),
    }
    if found.is_labelled:
        told |= {
            "champion_gap": _plain(found.champion_gap),
            "candidate_gap": _plain(found.candidate_gap),
            "gap_difference": _list(found.gap_difference),
            "labels_that_gain": _moved(found, gain=True),
            "labels_that_lose": _moved(found, gain=False),
        }
    return told if has_champion else {key: told[key] for key in _OF_ONE if key in told}


def make_figures(headline: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a headline that are numbers, for a run; an interval is its value."""
    told = {
        name: value[0] if isinstance(value, list) else value for name, value in headline.items()
    }
    return {
        f"comparison.{name}": None if value is None else float(value)
        for name, value in told.items()
        if value is None or isinstance(value, int | float)
    }


def write_table(found: Comparison) -> str:
    """A row for each label that both have, as CSV; what is not defined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for name, _ in _COLUMNS])
    for one in found.labels:
        cells = [figure(one) for _, figure in _COLUMNS]
        writer.writerow([_plain(cell) if isinstance(cell, float) else cell for cell in cells])
    return text.getvalue()


def _moved(found: Comparison, *, gain: bool) -> dict[str, list[float | None]]:
    """Labels whose average precision moved by more than chance, the largest first."""
    sign = 1 if gain else -1
    moved = [
        one
        for one in found.labels
        if (one.ap_difference.low > 0 if gain else one.ap_difference.high < 0)
    ]
    moved.sort(key=lambda one: -sign * one.ap_difference.value)
    return {one.label: _list(one.ap_difference) for one in moved[:_LABELS_TOLD]}


def _list(interval: Interval) -> list[float | None]:
    return [_plain(value) for value in (interval.value, interval.low, interval.high)]


def _plain(value: float, digits: int = 4) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
