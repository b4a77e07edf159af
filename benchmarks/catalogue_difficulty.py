"""How much of the synthetic catalogue can be had without looking: label frequencies and colours.

    .venv/bin/python benchmarks/catalogue_difficulty.py [--images 3900] [--seed 0]

Draws a catalogue, fits one logistic regression for each label on colour histograms of the train
and validation images (the strongest of several regularisations and of two kinds of histogram, so
an optimistic figure), and prints the global average precision on the test split as one JSON line.
The limit of 0.6 is frozen: what a network shows above it, it has learnt from shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.metrics import gap, macro_map
from pipeline.synthetic import LABELS, CatalogueSpec, write_catalogue

SIDE = 64
REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1)
LIMIT = 0.6
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def read_pixels(uri: str) -> Pixels:
    """Returns the centre crop of a picture, [64, 64, 3]."""
    with Image.open(uri) as image:
        image.draft("RGB", (4 * SIDE, 4 * SIDE))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (SIDE, SIDE)))


def make_joint_histogram(pixels: Pixels) -> Floats:
    """Returns shares of 8 x 8 x 8 colours, [512]."""
    levels = (pixels >> 5).astype(np.int64)
    bins = levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]
    return np.bincount(bins.ravel(), minlength=512) / bins.size


def make_channel_histogram(pixels: Pixels) -> Floats:
    """Returns shares of 32 levels for each of red, green, blue, [96]."""
    counts = [np.bincount((pixels[..., band] >> 3).ravel(), minlength=32) for band in range(3)]
    return np.concatenate(counts) / (SIDE * SIDE)


def colour_baselines(
    pixels: list[Pixels], targets: npt.NDArray[Any], test: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, Floats]]:
    """Logistic regressions on colour histograms.

    Args:
        pixels: N pictures.
        targets: Their labels, [N, L].
        test: Which of them are scored and not learnt from, [N].

    Yields:
        What was tried, and its scores, [N_test, L].
    """
    histograms = {"8x8x8": make_joint_histogram, "3x32": make_channel_histogram}
    for name, make_histogram in histograms.items():
        features = np.sqrt(np.stack([make_histogram(picture) for picture in pixels]))
        features = StandardScaler().fit(features[~test]).transform(features)
        for regularisation in REGULARISATIONS:
            model = LogisticRegression(C=regularisation, max_iter=300)
            scores = [
                model.fit(features[~test], present[~test]).predict_proba(features[test])[:, 1]
                for present in targets.T
            ]
            yield f"{name}, C={regularisation}", np.stack(scores, axis=1)


def main() -> None:
    """Draws, fits, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3900)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        catalogue = write_catalogue(
            Path(folder),
            CatalogueSpec(images=arguments.images, seed=arguments.seed),
            processes=os.cpu_count() or 1,
        )
        seconds = time.perf_counter() - started
        rows = pq.read_table(catalogue.labelled).to_pylist()
        pixels = [read_pixels(row["uri"]) for row in rows]
    targets = np.array([[label in row["labels"] for label in LABELS] for row in rows])
    test = np.array([row["split"] == "test" for row in rows])
    frequencies = np.tile(targets[~test].mean(axis=0), (int(test.sum()), 1))
    report: dict[str, object] = {
        "train_images": int((~test).sum()),
        "test_images": int(test.sum()),
        "images_per_s": round(len(rows) / seconds, 1),
        "labels_an_image": round(float(targets.sum(axis=1).mean()), 2),
        "rarest_label": round(float(targets.mean(axis=0).min()), 4),
        "gap_of_label_frequencies": round(gap(frequencies, targets[test]), 4),
    }
    best = 0.0
    for name, scores in colour_baselines(pixels, targets, test):
        value = gap(scores, targets[test])
        if value > best:
            best = value
            report["gap_of_colour_histograms"] = round(value, 4)
            report["macro_map_of_colour_histograms"] = round(
                macro_map(scores, targets[test]).value, 4
            )
            report["best_histogram"] = name
    report["within_limit"] = best < LIMIT
    print(json.dumps(report))


if __name__ == "__main__":
    main()
