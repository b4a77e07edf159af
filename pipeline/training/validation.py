"""Scores and figures of images by a model as it is, without augmentation.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.evaluation.metrics import (
    RankingMetrics,
    make_ranking_metrics,
    measure_accuracy,
)
from pipeline.images.preprocess import Preprocessing
from pipeline.taxonomy import Task
from pipeline.training.network import Network
from pipeline.training.pixels import PixelSet, cut_centre
from pipeline.training.processes import SINGLE, Processes


def score_with_network(
    network: Network, images: PixelSet, *, preprocessing: Preprocessing, batch_size: int
) -> npt.NDArray[np.float64]:
    """Scores of every image and label, [images, L]; the network is left in eval mode.

    Args:
        network: What is trained, on its device. MuMIC's scores are its logits, CMA-CLIP's the
            logarithms of its probabilities.
        images: Cached at the model's input size.
        preprocessing: The model's.
        batch_size: Images per forward pass.
    """
    network.eval()
    normalise = make_normaliser(preprocessing, network.device)
    size = (preprocessing.height, preprocessing.width)
    scores = [np.empty((0, images.targets.shape[1]))]
    with torch.no_grad():
        label_embeddings = network.embed_labels()

    def forward(planes: Tensor, indices: npt.NDArray[np.int64]) -> Tensor:
        texts = images.texts if network.reads_text else None
        companions = None if texts is None else network.take(texts.batch(indices))
        return network.rank(network(planes, label_embeddings, companions))

    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)))
            pixels = cut_centre(images.batch(indices)[0].to(network.device), size)
            scores.append(forward(normalise(pixels), indices).double().cpu().numpy())
    return np.concatenate(scores)


def validate_network(
    network: Network,
    images: PixelSet,
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    processes: Processes = SINGLE,
    tasks: Sequence[tuple[Task, slice]] = (),
) -> RankingMetrics:
    """Ranking figures over the images of all processes: the same in each of them.

    Args:
        network: What is trained, on its device; left in eval mode.
        images: This process' share, cached at the model's input size.
        preprocessing: The model's.
        batch_size: Images per forward pass.
        processes: Who shares the images.
        tasks: With their columns; of those with one label to an image the accuracy is told.

    Raises:
        ModelError: A score is not finite.
    """
    own = score_with_network(network, images, preprocessing=preprocessing, batch_size=batch_size)
    scores, targets, known = (
        processes.gather(torch.from_numpy(rows)).numpy()
        for rows in (own, images.targets, images.known)
    )
    if not np.isfinite(scores).all():
        raise ModelError(
            "the training diverged",
            where="validation",
            got="scores that are not finite",
            todo="lower optimizer.learning_rate or raise optimizer.warmup",
        )
    return replace(
        make_ranking_metrics(scores, targets, known),
        accuracy={
            task.id: measure_accuracy(scores[:, at], targets[:, at], known[:, at])
            for task, at in tasks
            if task.kind == "single_label"
        },
    )


def make_normaliser(
    preprocessing: Preprocessing, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """From planes [B, 3, H, W] of 0 to 255 to the image tower's input."""
    mean = 255.0 * torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = 255.0 * torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    return lambda planes: ((planes - mean) / std).contiguous(memory_format=torch.channels_last)
