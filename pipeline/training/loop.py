"""The training loop: tempered-sigmoid BCE over images and label texts, AdamW, one process.

Bit-equal from its seed on a CPU with the same number of threads; on a GPU equal up to rounding.
Knows neither manifests nor bundles.

Shapes: L labels, N texts, T tokens.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config import LossConfig, OptimizerConfig
from pipeline.errors import ManifestError
from pipeline.evaluation.metrics import RankingMetrics
from pipeline.images.preprocess import Preprocessing
from pipeline.models.mumic import MuMIC
from pipeline.training.pixels import PixelSet
from pipeline.training.trainer import Trainer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images came to.

    Attributes:
        loss: Mean over its steps.
        validation: Figures on the validation images; None without any.
    """

    loss: float
    validation: RankingMetrics | None


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, in eval mode, on the CPU.

    Attributes:
        mumic: The model with the best epoch's weights.
        epochs: What each epoch came to.
        best: Index of the epoch whose weights were kept: the best validation GAP, or the last one.
        images_per_s: Training images over the seconds spent in training steps.
    """

    mumic: MuMIC
    epochs: tuple[Epoch, ...]
    best: int
    images_per_s: float


def train(
    mumic: MuMIC,
    *,
    tokens: Tensor,
    owners: Tensor,
    training: PixelSet,
    validation: PixelSet,
    preprocessing: Preprocessing,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    device: torch.device,
    augmented: bool = True,
    progress: bool = False,
) -> TrainedModel:
    """Train towers, temperature and bias, whichever of them are not frozen.

    All label texts go through the text tower in every step, or once where it is frozen.

    Args:
        mumic: The model; changed in place.
        tokens: Every text of every label, [N, T] int64.
        owners: Each text's label, [N] int64.
        training: Images to learn from.
        validation: Images to choose the best epoch by; may be empty.
        preprocessing: The model's: size of the input, mean and standard deviation.
        optimizer: How the weights move.
        loss: Only ``bias`` is read here; temperature and the form of the bias are the model's.
        device: Where to train.
        augmented: Random crops and flips.
        progress: Show progress on stderr.

    Raises:
        ManifestError: There is no image to learn from.
        ConfigurationError: Nothing is left to train.
        ModelError: The loss is not finite any more.
    """
    if not len(training):
        raise ManifestError("no training image can be read", todo="see the counts logged above")
    with _reproducible(optimizer.seed, device):
        run = Trainer(
            mumic,
            tokens=tokens,
            owners=owners,
            preprocessing=preprocessing,
            config=optimizer,
            device=device,
            augmented=augmented,
        )
        if loss.bias == "prior":
            run.start_at_prior(training)
        epochs: list[Epoch] = []
        best, best_weights, seconds = 0, _copy_weights(mumic), 0.0
        for index in range(optimizer.epochs):
            started = time.monotonic()
            mean_loss = run.epoch(index, training, progress=progress)
            seconds += (took := time.monotonic() - started)
            figures = run.evaluate(validation) if len(validation) else None
            epochs.append(Epoch(mean_loss, figures))
            if _gap(epochs[-1]) >= _gap(epochs[best]):
                best, best_weights = index, _copy_weights(mumic)
            _LOG.info(
                "epoch %d of %d: loss %.4f, validation GAP %s, tau %.4f, bias %.2f, %.0f images/s",
                index + 1,
                optimizer.epochs,
                mean_loss,
                "none" if figures is None else f"{figures.gap:.4f}",
                float(mumic.tau.detach()),
                float(mumic.bias.detach()),
                run.images_per_epoch(training) / took,
            )
    mumic.load_state_dict(best_weights)
    mumic.clip.visual.to(memory_format=torch.contiguous_format)
    return TrainedModel(
        mumic=mumic.to("cpu").eval(),
        epochs=tuple(epochs),
        best=best,
        images_per_s=len(epochs) * run.images_per_epoch(training) / max(seconds, 1e-9),
    )


def _gap(epoch: Epoch) -> float:
    """Validation GAP, -1 where there is none: without validation the last epoch is the best."""
    figures = epoch.validation
    return -1.0 if figures is None or math.isnan(figures.gap) else figures.gap


def _copy_weights(mumic: MuMIC) -> dict[str, Any]:
    return {name: value.detach().cpu().clone() for name, value in mumic.state_dict().items()}


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch and chooses deterministic kernels; the caller's random state comes back after."""
    devices = [device] if device.type == "cuda" else []
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices=devices), flags:
        torch.manual_seed(seed)
        yield
