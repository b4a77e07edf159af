"""Whether thresholds for a precision hold on other images, and what they cost in recall.

    .venv/bin/python benchmarks/threshold_transfer.py [--output label-studies-output] [--epochs 10]

Draws the catalogue, trains on its true labels, scores validation and test images with the engine
that tags, and chooses thresholds as ``evaluate_model`` does: once on the validation images for the
test images, and again on random halves of both together, which says how much of it is chance. Told
of labels with 50 positives where they are judged: mean precision (a label without predictions
counts 0), and mean recall over that of each label's best threshold chosen on the judged images
themselves. What was drawn and trained in the output folder before is not made again. The last line
is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from drawn_catalogue import Drawn, draw_catalogue

from pipeline.config import (
    CalibrationConfig,
    DecodeConfig,
    FetchConfig,
    LabelledManifestConfig,
    LogConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TowersConfig,
    TrackingConfig,
    TrainModelConfig,
)
from pipeline.evaluation.decisions import count_decisions
from pipeline.evaluation.metrics import gap, recalls_at_precision
from pipeline.evaluation.scored import ScoredImages, score_images
from pipeline.evaluation.thresholds import calibrate_thresholds, with_calibrated
from pipeline.models.bundle import Bundle, read_bundle
from pipeline.models.serving import make_engine
from pipeline.models.tags import mark_tags
from pipeline.training.data import read_labelled
from pipeline.training.launch import run_training

ROOT = Path(__file__).parents[1]
NETWORK = ROOT / "conf" / "demo" / "tiny-resnet-64.json"
LEAST_POSITIVES = 50
Bools = npt.NDArray[np.bool_]


def train(
    drawn: Drawn, folder: Path, *, epochs: int, seed: int, architecture: Path = NETWORK
) -> Bundle:
    """The model that is judged: the demo's recipe on true labels, and its network if no other."""
    bundle = folder / f"clean-{epochs}-{seed}"
    if not bundle.exists():
        run_training(
            TrainModelConfig(
                manifest=LabelledManifestConfig(path=str(drawn.clean)),
                taxonomy=str(drawn.taxonomy),
                bundle=str(bundle),
                towers=TowersConfig(architecture=str(architecture)),
                optimizer=OptimizerConfig(
                    epochs=epochs,
                    batch_size=32,
                    learning_rate=1e-3,
                    weight_decay=0.05,
                    seed=seed,
                ),
                loss=LossConfig(bias="prior"),
                device="cpu",
                tracking=TrackingConfig(enabled=False),
                log=LogConfig(progress=False),
            )
        )
    return read_bundle(bundle)


def score(drawn: Drawn, bundle: Bundle) -> ScoredImages:
    """Validation and test images as the engine that tags scores them."""
    engine, loader = make_engine(
        bundle, ModelConfig(uri=str(bundle.path), device="cpu"), FetchConfig(), DecodeConfig()
    )
    with loader:
        images = read_labelled(LabelledManifestConfig(path=str(drawn.clean)), bundle.taxonomy)
        return score_images(images, {"validation", "test"}, engine)


def judge(
    images: ScoredImages, chosen_on: Bools, bundle: Bundle, config: CalibrationConfig
) -> dict[str, float]:
    """Thresholds of some of the images, on the others.

    Args:
        images: Scored ones.
        chosen_on: [N]: which of them choose.
        bundle: Whose taxonomy is calibrated.
        config: What is wanted.

    Returns:
        labels (judged), precision, recall, best_recall, recall_share, silent (labels without a
        prediction).
    """
    chosen = calibrate_thresholds(
        images.scores[chosen_on],
        images.targets[chosen_on],
        images.known[chosen_on],
        bundle.taxonomy,
        config,
    )
    scores, targets, known = (
        rows[~chosen_on] for rows in (images.scores, images.targets, images.known)
    )
    predicted = mark_tags(scores, with_calibrated(bundle.taxonomy, chosen))
    counts = count_decisions(predicted, targets, known)
    judged = counts.positives >= LEAST_POSITIVES
    best = recalls_at_precision(scores, targets, config.precision, known)
    precision = float(np.nan_to_num(counts.precision)[judged].mean())
    recall, best_recall = float(counts.recall[judged].mean()), float(best[judged].mean())
    return {
        "labels": int(judged.sum()),
        "precision": precision,
        "recall": recall,
        "best_recall": best_recall,
        "recall_share": recall / best_recall,
        "silent": int((counts.predicted[judged] == 0).sum()),
    }


def judge_halves(
    images: ScoredImages, bundle: Bundle, config: CalibrationConfig, *, repeats: int
) -> list[dict[str, float]]:
    """As :func:`judge`, on random halves of all images, again and again."""
    found = []
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(len(images))
        chosen_on = np.zeros(len(images), bool)
        chosen_on[order[: len(images) // 2]] = True
        found.append(judge(images, chosen_on, bundle, config))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, trains, judges, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("label-studies-output"), help="folder of all it leaves")
    add("--images", type=int, default=4000, help="pictures to draw, all splits together")
    add("--epochs", type=int, default=10, help="passes of the training")
    add("--seed", type=int, default=0, help="of the training")
    add("--repeats", type=int, default=20, help="random halves")
    add("--precision", type=float, default=0.9, help="what a label's tags should reach")
    add("--prior-positives", type=float, default=CalibrationConfig().prior_positives)
    asked = parser.parse_args(argv)
    output = asked.output.absolute()
    drawn = draw_catalogue(output / "catalogue", asked.images)
    bundle = train(drawn, output, epochs=asked.epochs, seed=asked.seed)
    images = score(drawn, bundle)
    config = CalibrationConfig(precision=asked.precision, prior_positives=asked.prior_positives)
    test = images.of("test")
    halves = judge_halves(images, bundle, config, repeats=asked.repeats)
    report: dict[str, Any] = {
        "benchmark": "threshold_transfer",
        "validation_images": len(images.of("validation")),
        "test_images": len(test),
        "gap": gap(test.scores, test.targets, known=test.known),
        "validation_to_test": judge(images, images.splits == "validation", bundle, config),
        "halves": {
            key: {
                "mean": float(np.mean([one[key] for one in halves])),
                "least": float(np.min([one[key] for one in halves])),
            }
            for key in halves[0]
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
