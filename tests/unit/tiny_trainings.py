"""Trainings on a handful of tiny pictures, for the tests of the training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tiny_models import TAXONOMY, make_towers

from pipeline.config import (
    CmaClipConfig,
    CmaTrainingConfig,
    DisturbanceConfig,
    LossConfig,
    OptimizerConfig,
)
from pipeline.models.cma_clip import CmaClip
from pipeline.models.labels import Tokenizer, tokenize_labels
from pipeline.training.cma_network import CmaNetwork
from pipeline.training.course import make_cma_course, make_mumic_course
from pipeline.training.loop import TrainedModel, train
from pipeline.training.mumic_network import MumicNetwork
from pipeline.training.objective import make_mumic, make_objective
from pipeline.training.pixels import PixelSet
from pipeline.training.processes import SINGLE, Processes
from pipeline.training.texts import make_text_set
from pipeline.training.trainer import Trainer

CPU = torch.device("cpu")
SIDE = 32
LABELS = len(TAXONOMY.labels)
# What each label looks like: a colour in a quarter of the picture, or in its middle.
COLOURS = ((220, 40, 40), (40, 200, 40), (40, 60, 230), (230, 220, 40), (200, 60, 220))
PLACES = ((0, 0), (0, 16), (16, 0), (16, 16), (8, 8))
RECIPE = OptimizerConfig(epochs=2, batch_size=8, learning_rate=2e-3, weight_decay=0.05, seed=3)


def draw(targets: npt.NDArray[np.bool_], side: int, seed: int) -> npt.NDArray[np.uint8]:
    """Pictures that show their labels, [N, side, side, 3]."""
    noise = np.random.default_rng(seed).integers(0, 60, (len(targets), side, side, 3))
    for picture, held in zip(noise, targets, strict=True):
        for label in np.flatnonzero(held):
            top, left = PLACES[label]
            picture[top : top + 14, left : left + 14] = COLOURS[label]
    return noise.astype(np.uint8)


def make_images(count: int, *, side: int = SIDE, seed: int = 0) -> PixelSet:
    targets = np.random.default_rng(seed).random((count, LABELS)) < (0.5, 0.4, 0.3, 0.2, 0.2)
    return PixelSet(
        pixels=draw(targets, side, seed),
        targets=targets,
        known=np.ones_like(targets),
        ids=tuple(str(index) for index in range(count)),
        left_out=Counter(),
    )


NONE = make_images(0)


def run(
    folder: Path,
    training: PixelSet,
    validation: PixelSet = NONE,
    *,
    optimizer: OptimizerConfig = RECIPE,
    loss: LossConfig | None = None,
    kind: str = "vit",
    augmented: bool = True,
    device: torch.device = CPU,
    **options: Any,
) -> TrainedModel[MumicNetwork]:
    loss = loss or LossConfig()
    towers = make_towers(folder, kind)
    mumic = make_mumic(towers.model, loss)
    tokens, owners = tokenize_labels(towers.tokenizer, TAXONOMY)
    return train(
        make_mumic_course(mumic, tokens=tokens, owners=owners, loss=loss, optimizer=optimizer),
        training=training,
        validation=validation,
        preprocessing=towers.preprocessing,
        optimizer=optimizer,
        device=device,
        augmented=augmented,
        **options,
    )


def weights(trained: TrainedModel[MumicNetwork]) -> dict[str, torch.Tensor]:
    return dict(trained.network.mumic.state_dict())


def changed(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def make_trainer(
    folder: Path,
    optimizer: OptimizerConfig = RECIPE,
    loss: LossConfig | None = None,
    *,
    kind: str = "vit",
    augmented: bool = False,
    processes: Processes = SINGLE,
) -> Trainer:
    """A trainer of tiny towers before its first step."""
    loss = loss or LossConfig()
    towers = make_towers(folder, kind)
    tokens, owners = tokenize_labels(towers.tokenizer, TAXONOMY)
    network = MumicNetwork(
        make_mumic(towers.model, loss),
        tokens=tokens,
        owners=owners,
        image_tower=optimizer.image_tower,
        text_tower=optimizer.text_tower,
        precision=optimizer.precision,
    )
    return Trainer(
        network,
        objective=make_objective(loss),
        preprocessing=towers.preprocessing,
        config=optimizer,
        device=CPU,
        augmented=augmented,
        processes=processes,
    )


# The picture shows the scene's labels, the title tells the room, and neither tells the other's.
CMA = CmaClipConfig(layers=1, heads=2)
UNDISTURBED = CmaTrainingConfig(
    disturbance=DisturbanceConfig(
        text_dropout=0, text_swap=0, image_dropout=0, image_swap=0, image_noise=0
    )
)


def make_titled_images(
    count: int, tokenizer: Tokenizer, *, side: int = SIDE, seed: int = 0
) -> PixelSet:
    """Pictures with titles; the room of every fifth is not known, every seventh has no title."""
    _, room = (columns for _, columns in TAXONOMY.columns)
    images = make_images(count, side=side, seed=seed)
    targets, known = images.targets.copy(), images.known.copy()
    targets[:, room] = False
    pixels = draw(targets, side, seed)
    rooms = np.random.default_rng(seed).integers(0, 2, count)
    targets[np.arange(count), room.start + rooms] = True
    known[::5, room] = False
    words = [label.id for label in TAXONOMY.tasks[1].labels]
    titles = [None if i % 7 == 6 else f"a {words[r]} room" for i, r in enumerate(rooms)]
    return replace(
        images,
        pixels=pixels,
        targets=targets & known,
        known=known,
        texts=make_text_set(titles, tokenizer),
    )


def make_cma_trainer(
    folder: Path,
    optimizer: OptimizerConfig = RECIPE,
    *,
    config: CmaClipConfig = CMA,
    training: CmaTrainingConfig = UNDISTURBED,
    processes: Processes = SINGLE,
) -> Trainer:
    """A trainer of a tiny CMA-CLIP before its first step."""
    towers = make_towers(folder)
    course = make_cma_course(
        CmaClip(towers.model, TAXONOMY, config), TAXONOMY, training=training, optimizer=optimizer
    )
    return Trainer(
        course.network,
        objective=course.objective,
        preprocessing=towers.preprocessing,
        config=optimizer,
        device=CPU,
        augmented=False,
        processes=processes,
    )


def run_cma(
    folder: Path,
    training: PixelSet,
    validation: PixelSet,
    *,
    optimizer: OptimizerConfig = RECIPE,
    config: CmaClipConfig = CMA,
    told: CmaTrainingConfig | None = None,
    **options: Any,
) -> TrainedModel[CmaNetwork]:
    towers = make_towers(folder)
    return train(
        make_cma_course(
            CmaClip(towers.model, TAXONOMY, config),
            TAXONOMY,
            training=told or CmaTrainingConfig(),
            optimizer=optimizer,
        ),
        training=training,
        validation=validation,
        preprocessing=towers.preprocessing,
        optimizer=optimizer,
        device=CPU,
        **options,
    )
