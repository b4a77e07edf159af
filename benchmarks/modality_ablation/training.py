"""One training of the ablation, from seed to figures on the test images, as they are and spoilt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trials.images import load_sets

from modality_ablation.arms import ARMS, Training
from modality_ablation.data import load_titles
from modality_ablation.pretraining import TOWERS
from modality_ablation.settings import Settings
from modality_ablation.tasks import make_attributes
from pipeline.config import CmaTrainingConfig, NoiseConfig, OptimizerConfig, TowersConfig
from pipeline.errors import ModelError
from pipeline.evaluation.metrics import measure_accuracy
from pipeline.evaluation.modality_study import make_reader
from pipeline.evaluation.noise import NoisePoint, run_noise_protocol
from pipeline.evaluation.resampling import rank_pooled
from pipeline.models.cma_clip import CmaClip
from pipeline.models.cma_predictor import CmaClipPredictor
from pipeline.models.towers import load_towers
from pipeline.taxonomy import Taxonomy
from pipeline.training.course import make_cma_course
from pipeline.training.loop import train
from pipeline.training.pixels import PixelSet

# As the paper's tables have it.
PRECISION = 0.9
_WEIGHT_DECAY = 0.05
_SCORING_BATCH = 128


def run_training(
    training: Training, settings: Settings, folder: Path, device: str
) -> dict[str, Any]:
    """Train, and measure on the test images.

    Args:
        training: What to train.
        settings: Of the ablation.
        folder: Of its data.
        device: A torch device.

    Returns:
        arm, seed, epochs, cost, seconds, and either ``failed`` or: accuracy and
        recall_at_precision of each attribute, noise (points of the noise protocol; none of
        an arm that reads one modality), best_epoch, images_per_s.
    """
    started = time.monotonic()
    told = {"arm": training.arm, "seed": training.seed, "epochs": training.epochs}
    try:
        found = _train(training, settings, folder, torch.device(device))
    except ModelError as error:  # diverging is something an arm can do, and a result
        found = {"failed": str(error)}
    seconds = round(time.monotonic() - started, 1)
    return told | found | {"cost": training.cost, "seconds": seconds}


def _train(
    training: Training, settings: Settings, folder: Path, device: torch.device
) -> dict[str, Any]:
    sets, tasks = _load_attributes(folder), make_attributes()
    torch.manual_seed(training.seed)
    towers = load_towers(
        TowersConfig(architecture=settings.architecture, pretrained=str(folder / TOWERS))
    )
    optimizer = OptimizerConfig(
        epochs=training.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=_WEIGHT_DECAY,
        image_tower=False,
        text_tower=False,
        seed=training.seed,
    )
    trained = train(
        make_cma_course(
            CmaClip(towers.model, tasks, ARMS[training.arm]),
            tasks,
            training=CmaTrainingConfig(disturbance=settings.disturbance),
            optimizer=optimizer,
        ),
        training=sets["train"],
        validation=sets["validation"],
        preprocessing=towers.preprocessing,
        optimizer=optimizer,
        device=device,
    )
    model = trained.network.model.to(device)
    predictor = CmaClipPredictor(
        model,
        tokenizer=towers.tokenizer,
        preprocessing=towers.preprocessing,
        taxonomy=tasks,
        embedding_size=model.width,
        version=training.name,
    )
    return {
        **_measure(
            predictor,
            sets["test"],
            load_titles(folder),
            tasks,
            reads_both=model.reads_text and model.reads_image,
        ),
        "best_epoch": trained.best + 1,
        "images_per_s": round(trained.images_per_s, 1),
    }


def _load_attributes(folder: Path) -> dict[str, PixelSet]:
    columns = len(make_attributes().labels)
    return {
        split: replace(images, targets=images.targets[:, :columns], known=images.known[:, :columns])
        for split, images in load_sets(folder).items()
    }


def _measure(
    predictor: CmaClipPredictor,
    test: PixelSet,
    titles: Sequence[str | None],
    tasks: Taxonomy,
    *,
    reads_both: bool,
) -> dict[str, Any]:
    read, pixels = make_reader(predictor, _SCORING_BATCH), np.array(test.pixels)
    scores, ones = read(pixels, titles).scores, np.ones((1, len(pixels)))
    parts = {
        task.id: (scores[:, at], test.targets[:, at], test.known[:, at])
        for task, at in tasks.columns
    }
    noise: list[NoisePoint] = []
    if reads_both:
        noise = run_noise_protocol(
            read,
            pixels,
            titles,
            targets=test.targets,
            known=test.known,
            taxonomy=tasks,
            config=NoiseConfig(),
        )
    return {
        "accuracy": {task: measure_accuracy(*part) for task, part in parts.items()},
        "recall_at_precision": {
            task: float(rank_pooled(*part, k=1).measure(ones, PRECISION)[1][0])
            for task, part in parts.items()
        },
        "noise": [
            {
                "modality": point.modality,
                "how": point.how,
                "rate": point.rate,
                "accuracy": dict(point.figures),
                "weight": {task: point.weights[task][point.modality] for task in parts},
            }
            for point in noise
        ],
    }
