"""The noise protocol with a made-up model whose answers show what it was given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import NoiseConfig
from pipeline.evaluation.curves import make_noise_charts
from pipeline.evaluation.noise import WAYS, Reading, run_noise_protocol
from pipeline.taxonomy import parse_taxonomy

TAXONOMY = parse_taxonomy(
    {
        "tasks": [
            {"id": "shape", "kind": "single_label", "labels": [{"id": "a"}, {"id": "b"}]},
            {"id": "word", "kind": "single_label", "labels": [{"id": "x"}, {"id": "y"}]},
            {"id": "things", "kind": "multi_label", "labels": [{"id": "p"}, {"id": "q"}]},
        ]
    }
)
COUNT = 40
SHAPES, WORDS = np.arange(COUNT) % 2, np.arange(COUNT) // 2 % 2
PIXELS = np.repeat((10 + 100 * SHAPES)[:, None, None, None], 3, axis=3).astype(np.uint8)
TEXTS = ["xy"[word] for word in WORDS]
TARGETS = np.zeros((COUNT, 6), bool)
TARGETS[np.arange(COUNT), SHAPES] = True
TARGETS[np.arange(COUNT), 2 + WORDS] = True
TARGETS[:, 4] = SHAPES == 0
KNOWN = np.ones_like(TARGETS)
KNOWN[::4, :2] = False


def read(pixels: npt.NDArray[np.uint8], texts: Sequence[str | None]) -> Reading:
    """Shape and things from the picture (10 or 110, else noise), the word from the text."""
    level = pixels[:, 0, 0, 0].astype(int)
    scores, weights = np.zeros((len(level), 6)), np.full((len(level), 3, 2), 0.5)
    for row, (value, text) in enumerate(zip(level, texts, strict=True)):
        noisy = value not in (10, 110)
        scores[row, :2] = (0.5, 0.4) if noisy else (value == 10, value == 110)
        scores[row, 2:4] = (0.5, 0.4) if text is None else (text == "x", text == "y")
        scores[row, 4] = 0.0 if noisy else value == 10
        weights[row] = (1.0, 0.0) if noisy else (0.0, 1.0) if text is None else (0.5, 0.5)
    return Reading(scores=scores, weights=weights)


def points_of(**config: object) -> dict[tuple[str, str, float], tuple[dict[str, float], float]]:
    points = run_noise_protocol(
        read,
        PIXELS,
        TEXTS,
        targets=TARGETS,
        known=KNOWN,
        taxonomy=TAXONOMY,
        config=NoiseConfig(**config),  # type: ignore[arg-type]
    )
    return {
        (one.modality, one.how, one.rate): (
            dict(one.figures),
            one.weights["shape"][one.modality],
        )
        for one in points
    }


def test_nothing_is_spoilt_at_rate_0() -> None:
    points = points_of()
    assert len(points) == len(WAYS) * 5
    for modality, how in WAYS:
        figures, weight = points[modality, how, 0.0]
        assert figures == {"shape": 1.0, "word": 1.0, "things": 1.0}
        assert weight == 0.5


def test_emptied_texts_and_noisy_pictures_cost_what_they_tell_alone() -> None:
    points = points_of()
    figures, weight = points["text", "emptied", 1.0]
    assert figures == {"shape": 1.0, "word": float((WORDS == 0).mean()), "things": 1.0}
    assert weight == 0.0
    figures, weight = points["image", "noise", 1.0]
    assert figures["word"] == 1.0
    checked = KNOWN[:, 0]
    # noise of one byte is 10 or 110 now and then
    assert figures["shape"] == pytest.approx(float((SHAPES[checked] == 0).mean()), abs=0.1)
    assert weight < 0.1
    halves = [points["text", "emptied", rate][1] for rate in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert halves == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])


def test_swapped_ones_are_those_of_another_image() -> None:
    seen: list[tuple[list[int], list[str | None]]] = []

    def note(pixels: npt.NDArray[np.uint8], texts: Sequence[str | None]) -> Reading:
        seen.append((pixels[:, 0, 0, 0].tolist(), list(texts)))
        return Reading(scores=np.zeros((len(texts), 6)), weights=np.zeros((len(texts), 3, 2)))

    numbered = np.repeat(np.arange(COUNT)[:, None, None, None], 3, axis=3).astype(np.uint8)
    names = [str(index) for index in range(COUNT)]
    run_noise_protocol(
        note,
        numbered,
        names,
        targets=TARGETS,
        known=KNOWN,
        taxonomy=TAXONOMY,
        config=NoiseConfig(),
    )
    clean, swapped_text, emptied, swapped_image, noise = seen
    assert clean == (list(range(COUNT)), names)
    assert swapped_text[0] == list(range(COUNT))
    assert sorted(map(str, swapped_text[1])) == sorted(names)
    assert all(given != own for given, own in zip(swapped_text[1], names, strict=True))
    assert emptied == (list(range(COUNT)), [None] * COUNT)
    assert sorted(swapped_image[0]) == list(range(COUNT))
    assert all(given != own for own, given in enumerate(swapped_image[0]))
    assert noise[1] == names


def test_images_of_a_lower_rate_are_among_those_of_a_higher_one() -> None:
    points = points_of(seed=3)
    accuracies = [
        points["text", "swapped", rate][0]["word"] for rate in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert points_of(seed=3) == points
    assert points_of(seed=4) != points


def test_charts_have_a_line_for_each_task() -> None:
    points = run_noise_protocol(
        read,
        PIXELS,
        TEXTS,
        targets=TARGETS,
        known=KNOWN & (np.arange(6) != 4),
        taxonomy=TAXONOMY,
        config=NoiseConfig(rates=(0.0, 1.0)),
    )
    charts = make_noise_charts(points)
    assert [(one["modality"], one["how"]) for one in charts] == list(WAYS)
    lines = {line["task"]: line for line in charts[1]["lines"]}
    assert lines["word"]["figures"] == [[0.0, 1.0], [1.0, float((WORDS == 0).mean())]]
    assert lines["shape"]["weights"] == [[0.0, 0.5], [1.0, 0.0]]
    assert lines["things"]["figures"] == []  # nobody checked it
