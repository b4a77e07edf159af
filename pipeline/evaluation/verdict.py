"""Whether a candidate stands up to the champion: a comparison against limits. The limits are ours.

A share that a limit names exactly is allowed. A figure that is not defined refuses where the limit
asks for it, and is passed over where it only exists with labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.config import LimitsConfig
from pipeline.evaluation.comparison import Comparison, Interval, LabelComparison

_LABELS_TOLD = 3


def find_broken(comparison: Comparison, limits: LimitsConfig) -> tuple[str, ...]:
    """The limits that a candidate passes, each in words: its name, the figure, the limit.

    Args:
        comparison: The candidate and the champion.
        limits: As configured.
    """
    return tuple(_broken(comparison, limits))


def _broken(found: Comparison, limits: LimitsConfig) -> Iterator[str]:
    if found.images < limits.min_images:
        yield f"min_images: {found.images} images, at least {limits.min_images}"
        return  # figures of a handful of images say nothing
    standing = len(found.labels) + len(found.labels_gone)
    if len(found.labels_gone) > limits.max_labels_gone * standing:
        yield (
            f"max_labels_gone: {len(found.labels_gone)} of {standing} labels are gone, at most "
            f"{limits.max_labels_gone:.0%}"
        )
    # nobody can vouch for a candidate that shares nothing with the champion
    if not found.agreement >= limits.min_agreement and limits.min_agreement > 0:
        yield f"min_agreement: {found.agreement:.3f}, at least {limits.min_agreement:g}"
    if found.is_labelled:
        yield from _broken_with_labels(found, limits)
    else:
        changed = [
            one
            for one in found.labels
            if one.tagged >= limits.min_label_images and one.rate_change > limits.max_rate_change
        ]
        if changed:
            yield (
                f"max_rate_change: {_name(changed, lambda one: one.rate_change)}, at most "
                f"{limits.max_rate_change:g}"
            )
    if found.speed < limits.min_speed:
        yield f"min_speed: {found.speed:.2f} of the champion's, at least {limits.min_speed:g}"


def _broken_with_labels(found: Comparison, limits: LimitsConfig) -> Iterator[str]:
    if found.candidate_gap < limits.min_gap:
        yield f"min_gap: {found.candidate_gap:.3f}, at least {limits.min_gap:g}"
    difference = found.gap_difference
    if _loses(difference, limits.max_gap_loss):
        yield (
            f"max_gap_loss: {-difference.value:.3f} (95 % interval {-difference.high:.3f} to "
            f"{-difference.low:.3f}), at most {limits.max_gap_loss:g}"
        )
    worse = [
        one
        for one in found.labels
        if one.positives >= limits.min_label_positives
        and _loses(one.ap_difference, limits.max_label_loss)
    ]
    if worse:
        yield (
            f"max_label_loss: {_name(worse, lambda one: -one.ap_difference.value)}, at most "
            f"{limits.max_label_loss:g}"
        )


def _loses(difference: Interval, most: float) -> bool:
    """More is lost than allowed, and that is not chance."""
    return difference.value < -most and difference.high < 0


def _name(labels: list[LabelComparison], figure: Callable[[LabelComparison], float]) -> str:
    """The labels with the largest figures, and how many there are besides."""
    ordered = sorted(labels, key=figure, reverse=True)
    told = ", ".join(f"{one.label} {figure(one):.3f}" for one in ordered[:_LABELS_TOLD])
    more = len(ordered) - _LABELS_TOLD
    return f"{told} and {more} more" if more > 0 else told
