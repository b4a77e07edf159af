"""What becomes of a model of images and texts when one of the two is spoilt (protocol ours).

For each modality and rate, the text of some images is another image's or none, or the picture is
another image's or noise; the other modality stays. The paper (CMA-CLIP, arXiv 2112.03562) claims
robustness against such noise; how it measured that is not known.

Rows do not depend on each other, so every row is predicted once as it is and once spoilt in each
way: a rate says which of the two is counted. The images of a lower rate are among those of a
higher one. Shapes: N images, L labels, K tasks, H W input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import NoiseConfig
from pipeline.evaluation.metrics import gap, measure_accuracy
from pipeline.evaluation.operating_points import Bools, Floats
from pipeline.models.cma_clip import MODALITIES
from pipeline.taxonomy import Taxonomy

Modality = Literal["text", "image"]
How = Literal["swapped", "emptied", "noise"]
WAYS: tuple[tuple[Modality, How], ...] = (
    ("text", "swapped"),
    ("text", "emptied"),
    ("image", "swapped"),
    ("image", "noise"),
)
_LEVELS = 256
Pixels = npt.NDArray[np.uint8]
Texts = Sequence[str | None]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model makes of some images.

    Attributes:
        scores: [N, L], any scale that ranks the labels of a task.
        weights: [N, K, 2], what text and image (``MODALITIES``) counted in each task.
    """

    scores: Floats
    weights: Floats


class Read(Protocol):
    """Reads images with their texts, in batches of its own choice."""

    def __call__(self, pixels: Pixels, texts: Texts) -> Reading:
        """From [N, H, W, 3] and N texts; None is no text."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoisePoint:
    """What a model does at one rate of one kind of noise.

    Attributes:
        modality: Which one is spoilt.
        how: What it is replaced by.
        rate: Share of the images.
        figures: Of each task, by id: accuracy where it has one label to an image, else GAP.
        weights: Mean weight of each task and modality over the images.
    """

    modality: Modality
    how: How
    rate: float
    figures: Mapping[str, float]
    weights: Mapping[str, Mapping[str, float]]

    @property
    def mean_figure(self) -> float:
        """Mean of the tasks' figures."""
        return float(np.nanmean(list(self.figures.values())))


def run_noise_protocol(
    read: Read,
    pixels: Pixels,
    texts: Texts,
    *,
    targets: Bools,
    known: Bools,
    taxonomy: Taxonomy,
    config: NoiseConfig,
) -> list[NoisePoint]:
    """Spoil one modality at a time.

    Args:
        read: The model.
        pixels: [N, H, W, 3], N at least 2.
        texts: N of them.
        targets: [N, L].
        known: [N, L].
        taxonomy: Tasks and labels.
        config: Rates, and the seed of what is random.

    Returns:
        A point for each of ``WAYS`` and rate, in their order.
    """
    generator = np.random.default_rng(config.seed)
    order = generator.permutation(len(pixels))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    clean = read(pixels, texts)
    points = []
    for modality, how in WAYS:
        spoilt = read(
            _spoil_pixels(pixels, how, other, generator) if modality == "image" else pixels,
            _spoil_texts(texts, how, other) if modality == "text" else texts,
        )
        for rate in config.rates:
            chosen = np.zeros(len(pixels), bool)
            chosen[order[: round(rate * len(pixels))]] = True
            mixed = Reading(
                scores=np.where(chosen[:, None], spoilt.scores, clean.scores),
                weights=np.where(chosen[:, None, None], spoilt.weights, clean.weights),
            )
            points.append(
                NoisePoint(
                    modality=modality,
                    how=how,
                    rate=rate,
                    figures=score_tasks(mixed.scores, targets, known, taxonomy),
                    weights=_average_weights(mixed.weights, taxonomy),
                )
            )
    return points


def score_tasks(
    scores: Floats, targets: Bools, known: Bools, taxonomy: Taxonomy
) -> dict[str, float]:
    """Of each task, by id: accuracy where it has one label to an image, else GAP.

    Args:
        scores: [N, L], finite.
        targets: [N, L].
        known: [N, L].
        taxonomy: Tasks and labels.
    """
    return {
        task.id: measure_accuracy(scores[:, at], targets[:, at], known[:, at])
        if task.kind == "single_label"
        else gap(scores[:, at], targets[:, at], known=known[:, at])
        for task, at in taxonomy.columns
    }


def _spoil_texts(texts: Texts, how: How, other: npt.NDArray[np.int64]) -> Texts:
    return [texts[index] if how == "swapped" else None for index in other]


def _spoil_pixels(
    pixels: Pixels, how: How, other: npt.NDArray[np.int64], generator: np.random.Generator
) -> Pixels:
    if how == "swapped":
        return pixels[other]
    return generator.integers(0, _LEVELS, pixels.shape, dtype=np.uint8)


def _average_weights(weights: Floats, taxonomy: Taxonomy) -> dict[str, Mapping[str, float]]:
    mean = weights.mean(axis=0)
    return {
        task.id: {name: float(mean[place, m]) for m, name in enumerate(MODALITIES)}
        for place, task in enumerate(taxonomy.tasks)
    }
