"""One pass over the training images.

The order of the images and their cuts follow from seed, epoch and process: an epoch that was cut
off goes on in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import DisturbanceConfig
from pipeline.errors import ManifestError, ModelError
from pipeline.training.disturbance import disturb, draw_disturbance
from pipeline.training.optimizer import learning_rate_factor, set_learning_rates
from pipeline.training.pixels import PixelSet, draw_cuts
from pipeline.training.progress import show_epoch
from pipeline.training.randomness import CUTS, DISTURBANCE, ORDER, STEP, make_generator, make_seed
from pipeline.training.trainer import Trainer


@dataclass
class EpochProgress:
    """How far an epoch got.

    Attributes:
        step: Steps done.
        loss: Sum of their losses, a float32 scalar.
    """

    step: int
    loss: Tensor


@dataclass(frozen=True)
class EpochSize:
    """How an epoch is cut into steps.

    Attributes:
        steps: Full batches, as many as every process has images for; at least one.
        own: Images of it that this process sees.
        images: Images of it that all processes see together.
    """

    steps: int
    own: int
    images: int

    @property
    def per_step(self) -> int:
        """Images of a step, of all processes."""
        return self.images // self.steps


def measure_epoch(trainer: Trainer, training: PixelSet) -> EpochSize:
    """The size of an epoch: the same in each of them, and for each process.

    Args:
        trainer: Knows the size of a step and who shares it.
        training: This process' images.

    Raises:
        ManifestError: A process has no image to learn from.
    """
    least = trainer.processes.least(len(training))
    if not least:
        raise ManifestError("no training image can be read", todo="see the counts logged above")
    steps = max(1, least // trainer.share)
    own = min(least, steps * trainer.share)
    return EpochSize(steps, own, own * trainer.processes.count)


def run_epoch(
    trainer: Trainer,
    index: int,
    training: PixelSet,
    *,
    done: EpochProgress | None = None,
    after_step: Callable[[EpochProgress], None] | None = None,
    progress: bool = False,
    disturbance: DisturbanceConfig | None = None,
) -> float:
    """One pass over the images, in a new order.

    Args:
        trainer: Takes the steps.
        index: Of the epoch.
        training: This process' images.
        done: How far this epoch got before it was cut off.
        after_step: Called after each step but the last.
        progress: Show progress on stderr.
        disturbance: How often modalities are taken away or spoilt; None: never.

    Returns:
        The mean loss of its steps.

    Raises:
        ModelError: The loss is not finite any more.
    """
    config, process = trainer.config, trainer.processes.index
    size = measure_epoch(trainer, training)
    of_order = make_generator(config.seed, ORDER, index, process)
    order = torch.randperm(len(training), generator=of_order)[: size.own].numpy()
    of_cuts = make_generator(config.seed, CUTS, index, process)
    cuts = draw_cuts(size.own, of_cuts) if trainer.augmented else None
    done = done or EpochProgress(0, torch.zeros((), device=trainer.device))
    trainer.network.train_trained()
    with show_epoch(
        epoch=index,
        epochs=config.epochs,
        images=size.images,
        seen=done.step * size.per_step,
        shown=progress,
        told=trainer.processes.leads,
    ) as bar:
        while done.step < size.steps:
            now = index * size.steps + done.step
            factor = learning_rate_factor(now, config.epochs * size.steps, config.warmup)
            set_learning_rates(trainer.optimizer, factor)
            # For dropout in a tower.
            torch.manual_seed(make_seed(config.seed, STEP, now, process))
            part = slice(done.step * trainer.share, (done.step + 1) * trainer.share)
            pixels, targets, known = training.batch(order[part])
            companions = None if training.texts is None else training.texts.batch(order[part])
            if disturbance is not None and companions is not None:
                of_step = make_generator(config.seed, DISTURBANCE, now, process)
                drawn = draw_disturbance(len(pixels), disturbance, of_step)
                pixels, companions = disturb(pixels, companions, drawn)
            loss = trainer.step(
                pixels, targets, known, None if cuts is None else cuts[part], companions
            )
            done.loss += loss
            done.step += 1
            bar.advance(size.per_step, loss)
            if after_step is not None and done.step < size.steps:
                after_step(done)
    mean = float(done.loss) / size.steps
    if not math.isfinite(mean):
        raise ModelError(
            "the training diverged",
            where=f"epoch {index + 1}",
            got=f"loss {mean}",
            todo="lower optimizer.learning_rate or raise optimizer.warmup",
        )
    return mean
