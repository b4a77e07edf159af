"""Where biases start: first predictions equal the prevalence of the labels.

Shapes: L labels.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pipeline.models.losses import prior_bias
from pipeline.training.mumic_network import MumicNetwork
from pipeline.training.pixels import PixelSet, draw_cuts
from pipeline.training.randomness import PRIOR, make_generator
from pipeline.training.trainer import Trainer, split_indices

# Images that decide where the bias starts.
_IMAGES = 256


@torch.no_grad()
def start_at_prior(network: MumicNetwork, trainer: Trainer, training: PixelSet) -> None:
    """Set the bias so that first predictions equal the prevalence of the labels.

    A linear head has a bias for each label, so each starts at its own prevalence.

    Args:
        network: The trainer's.
        trainer: Before its first step.
        training: This process' images.
    """
    add_up = trainer.processes.add_up
    positives = add_up(torch.from_numpy((training.targets & training.known).sum(axis=0)))
    known = add_up(torch.from_numpy(training.known.sum(axis=0)))
    if network.head is not None:
        network.head.start_at_prior(positives / known.clamp(min=1))
        return
    mean = _mean_negative_cosine(network, trainer, training)
    mumic = network.mumic
    prevalence = float(positives.sum()) / max(1.0, float(known.sum()))
    mumic.logit_bias.fill_(prior_bias(prevalence, mean, float(mumic.tau.detach())))


def _mean_negative_cosine(network: MumicNetwork, trainer: Trainer, training: PixelSet) -> float:
    """Over some training images of all processes, as a step sees them; 0 without a negative."""
    generator = make_generator(trainer.config.seed, PRIOR, trainer.processes.index)
    order = torch.randperm(len(training), generator=generator)
    indices = np.sort(order[: math.ceil(_IMAGES / trainer.processes.count)].numpy())
    network.train_trained()
    label_embeddings = network.embed_labels()
    if label_embeddings is None:
        raise ValueError("a linear head has no cosines")
    sums = torch.zeros(2, dtype=torch.float64)
    for part in split_indices(indices, trainer.micro_batch):
        pixels, targets, known = training.batch(part)
        cuts = draw_cuts(len(part), generator) if trainer.augmented else None
        cosines = network.cosines(trainer.planes(pixels, cuts), label_embeddings)
        negatives = known & (targets == 0)
        sums += torch.stack([cosines.cpu()[negatives].double().sum(), negatives.sum().double()])
    total, count = trainer.processes.add_up(sums).tolist()
    return float(total / max(1.0, count))
