"""A candidate against the champion on the same images: pure figures of two score matrices.

Which figures, and the limits that refuse a candidate, are ours. Nothing here knows models, files or
registries. Differences are candidate minus champion. Figures that are not defined are NaN.

Shapes: N images, L labels that both models have, R resamples of the bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.metrics import average_precisions, gap

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
# Weighted ranks of all resamples of one ranking at a time stay below this many numbers.
_NUMBERS_AT_ONCE = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with the middle 95 % of what it comes to on resampled images.

    Attributes:
        value: On the images as they are.
        low: 2.5 % of the resamples lie below.
        high: 2.5 % of the resamples lie above.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What the images of a comparison are known to show.

    Attributes:
        targets: [N, L]: the label holds.
        known: [N, L]: somebody checked whether it holds.
    """

    targets: Bools
    known: Bools


@dataclass(frozen=True, kw_only=True)
class LabelComparison:
    """One label.

    Attributes:
        task: Id of its task.
        label: Its id.
        champion_rate: Share of images that the champion tags with it.
        candidate_rate: As ``champion_rate``.
        agreement: Images tagged by both, of those tagged by either; NaN where neither tags one.
        tagged: Images tagged by either.
        positives: Images that are known to show it; 0 without labels.
        champion_ap: Average precision; NaN without positives.
        candidate_ap: As ``champion_ap``.
        ap_difference: Candidate minus champion, on the same resampled images.
    """

    task: str
    label: str
    champion_rate: float
    candidate_rate: float
    agreement: float
    tagged: int
    positives: int
    champion_ap: float
    candidate_ap: float
    ap_difference: Interval

    @property
    def rate_change(self) -> float:
        """Change of the rate, of the greater of the two; 0.5 is half as many, or twice."""
        greater = max(self.champion_rate, self.candidate_rate)
        return abs(self.candidate_rate - self.champion_rate) / greater if greater else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate against the champion.

    Attributes:
        images: Images that both could read.
        agreement: Tags that both publish, of those that either does, over all images and labels
            that both have; NaN where neither publishes one.
        labels: The labels that both have, in the champion's order.
        labels_new: ``task/label`` of those that only the candidate has.
        labels_gone: ``task/label`` of those that only the champion has.
        champion_gap: Global average precision over all known pairs; NaN without labels.
        candidate_gap: As ``champion_gap``.
        gap_difference: Candidate minus champion, on the same resampled images.
        champion_images_per_s: Images decoded and scored per second; NaN where nobody measured.
        candidate_images_per_s: As ``champion_images_per_s``.
    """

    images: int
    agreement: float
    labels: tuple[LabelComparison, ...]
    labels_new: tuple[str, ...] = ()
    labels_gone: tuple[str, ...] = ()
    champion_gap: float
    candidate_gap: float
    gap_difference: Interval
    champion_images_per_s: float = math.nan
    candidate_images_per_s: float = math.nan

    @property
    def is_labelled(self) -> bool:
        """Whether there was a positive to rank."""
        return not math.isnan(self.champion_gap)

    @property
    def speed(self) -> float:
        """The candidate's speed over the champion's; NaN where nobody measured."""
        return self.candidate_images_per_s / self.champion_images_per_s


def compare(
    names: tuple[tuple[str, str], ...],
    champion: Floats,
    candidate: Floats,
    *,
    champion_tags: Bools,
    candidate_tags: Bools,
    labelled: Labelled | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Comparison:
    """Compare two models' scores and tags of the same images.

    Args:
        names: Task and label id of each column, L of them.
        champion: Scores [N, L], finite.
        candidate: As ``champion``.
        champion_tags: [N, L]: what a run would publish.
        candidate_tags: As ``champion_tags``.
        labelled: What the images show; None: nobody knows.
        resamples: R, of the intervals.
        seed: Of the resamples.
    """
    images = len(champion)
    both, either = champion_tags & candidate_tags, champion_tags | candidate_tags
    if labelled is None:
        labelled = Labelled(
            targets=np.zeros(champion.shape, bool), known=np.zeros(champion.shape, bool)
        )
    positive = labelled.targets & labelled.known
    # [R, N]: how often each resample holds each image; the same for both models
    counts = np.random.default_rng(seed).multinomial(
        images, np.full(images, 1 / max(images, 1)), size=resamples
    )
    aps = [
        average_precisions(scores, labelled.targets, labelled.known)
        for scores in (champion, candidate)
    ]
    labels = []
    for column, (task, label) in enumerate(names):
        checked = labelled.known[:, column]
        resampled = [
            resampled_average_precision(
                scores[checked, column], positive[checked, column], counts[:, checked]
            )
            for scores in (champion, candidate)
        ]
        labels.append(
            LabelComparison(
                task=task,
                label=label,
                champion_rate=_share(champion_tags[:, column].sum(), images),
                candidate_rate=_share(candidate_tags[:, column].sum(), images),
                agreement=_share(both[:, column].sum(), either[:, column].sum()),
                tagged=int(either[:, column].sum()),
                positives=int(positive[:, column].sum()),
                champion_ap=float(aps[0][column]),
                candidate_ap=float(aps[1][column]),
                ap_difference=_interval(
                    float(aps[1][column] - aps[0][column]), resampled[1] - resampled[0]
                ),
            )
        )
    champion_gap, candidate_gap, difference = _compare_gap(champion, candidate, labelled, counts)
    return Comparison(
        images=images,
        agreement=_share(both.sum(), either.sum()),
        labels=tuple(labels),
        champion_gap=champion_gap,
        candidate_gap=candidate_gap,
        gap_difference=difference,
    )


def resampled_average_precision(
    scores: Floats, positive: Bools, counts: npt.NDArray[np.int64]
) -> Floats:
    """Average precision of every resample, as if each entry were there as often as counted.

    Equal scores are one threshold, as in
    :func:`pipeline.evaluation.metrics.average_precision`.

    Args:
        scores: [M], finite.
        positive: [M].
        counts: [R, M]: how often a resample holds an entry.

    Returns:
        [R]; NaN for a resample without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    thresholds = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    result = np.full(len(counts), math.nan)
    step = max(1, _NUMBERS_AT_ONCE // max(1, len(scores)))
    for start in range(0, len(counts), step):
        part = counts[start : start + step][:, order]
        ranks = np.cumsum(part, axis=1, dtype=np.float64)[:, thresholds]
        hits = np.cumsum(part * positive[order], axis=1, dtype=np.float64)[:, thresholds]
        # before the first entry that a resample holds nothing was found and nothing was missed
        precision = np.divide(hits, ranks, out=np.zeros_like(hits), where=ranks > 0)
        found = np.diff(hits, prepend=0.0, axis=1)
        positives = hits[:, -1] if hits.shape[1] else np.zeros(len(part))
        summed = (precision * found).sum(axis=1)
        result[start : start + step] = np.divide(
            summed, positives, out=np.full(len(part), math.nan), where=positives > 0
        )
    return result


def _compare_gap(
    champion: Floats, candidate: Floats, labelled: Labelled, counts: npt.NDArray[np.int64]
) -> tuple[float, float, Interval]:
    """GAP over all labels of both, and the interval of their difference."""
    pairs = labelled.known
    # of a pooled pair: the image it belongs to
    owners = np.broadcast_to(np.arange(len(champion))[:, None], pairs.shape)[pairs]
    values, resampled = [], []
    for scores in (champion, candidate):
        values.append(gap(scores, labelled.targets, known=pairs))
        resampled.append(
            np.concatenate(
                [
                    resampled_average_precision(
                        scores[pairs], labelled.targets[pairs], part[:, owners]
                    )
                    for part in np.array_split(counts, _parts(counts, owners))
                ]
            )
        )
    return values[0], values[1], _interval(values[1] - values[0], resampled[1] - resampled[0])


def _parts(counts: npt.NDArray[np.int64], owners: npt.NDArray[np.int64]) -> int:
    """Into how many parts the resamples are cut, so that their pooled counts fit into memory."""
    return int(min(len(counts), 1 + len(counts) * len(owners) // _NUMBERS_AT_ONCE))


def _interval(value: float, resampled: Floats) -> Interval:
    defined = resampled[~np.isnan(resampled)]
    if math.isnan(value) or not len(defined):
        return Interval(value=value, low=math.nan, high=math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan
