"""A mean over seeds with Student's interval, how it is shown, and tables of such."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_LEAST = 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        value: The mean.
        low: Lower end.
        high: Upper end.
        n: Values it is the mean of.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def holds_zero(self) -> bool:
        """Whether nothing may be claimed."""
        return not (self.low > 0 or self.high < 0)


def make_interval(values: Sequence[float]) -> Interval:
    """Mean of values with Student's interval; without ends (NaN) for a single value."""
    mean = float(np.mean(values))
    if len(values) < _LEAST:
        return Interval(value=mean, low=math.nan, high=math.nan, n=len(values))
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * spread
    return Interval(value=mean, low=mean - reach, high=mean + reach, n=len(values))


def as_points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}"


def as_share(share: float) -> str:
    """A figure between 0 and 1."""
    return f"{share:.3f}"


def show_interval(interval: Interval, write: Callable[[float], str]) -> str:
    """A mean with its ends in brackets.

    Args:
        interval: What to show.
        write: Writes a number.
    """
    if math.isnan(interval.low):
        return f"{write(interval.value)} (no interval)"
    return f"{write(interval.value)} [{write(interval.low)}, {write(interval.high)}]"


def make_reaches(intervals: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """How far each interval reaches below and above its value; nowhere where it has no ends.

    Args:
        intervals: With value, low and high.
    """
    below = [max(0.0, one["value"] - one["low"]) for one in intervals]
    above = [max(0.0, one["high"] - one["value"]) for one in intervals]
    return [below, above]


def make_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
