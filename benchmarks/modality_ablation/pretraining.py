"""Towers that every arm starts from: trained on pictures, their titles and the scene's labels.

CMA-CLIP starts from CLIP, whose two towers speak of one thing in one space, and hardly moves them.
So do the arms: they get frozen towers that know whose title is whose, and what a picture shows, and
an arm's own parts make of them what they can. The loss is CLIP's (arXiv 2103.00020) plus a binary
cross entropy of the labels, through a linear layer that is dropped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from trials.images import load_sets

from modality_ablation.settings import Settings
from modality_ablation.tasks import make_tasks
from pipeline.config import TowersConfig
from pipeline.images.preprocess import Preprocessing
from pipeline.models.losses import sum_binary_cross_entropies
from pipeline.models.towers import load_towers
from pipeline.training.optimizer import learning_rate_factor
from pipeline.training.pixels import PixelSet, augment, cut_centre, draw_cuts
from pipeline.training.trainer import split_indices
from pipeline.training.validation import make_normaliser

TOWERS = "towers.safetensors"
_WEIGHT_DECAY = 0.05
_WARMUP = 0.1
# A mean over pairs of which few are positive is small beside a softmax over a batch.
_LABELS_WEIGHT = 10.0
# Among so many titles a picture has to find its own.
_RIVALS = 100


def pretrain_towers(settings: Settings, folder: Path) -> dict[str, Any]:
    """Train both towers on the training split, and keep them in the folder.

    Args:
        settings: Of the ablation.
        folder: Of its data.

    Returns:
        found: share of the test pictures that find their own title among a hundred, and seconds.
    """
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        towers = load_towers(TowersConfig(architecture=settings.architecture))
        sets = load_sets(folder)
        _train(towers.model, sets["train"], towers.preprocessing, settings)
    found = _find_titles(towers.model.eval(), sets["test"], towers.preprocessing)
    save_file(
        {name: value.contiguous().clone() for name, value in towers.model.state_dict().items()},
        folder / TOWERS,
    )
    return {"found": round(found, 4), "seconds": round(time.monotonic() - started, 1)}


def _train(model: Any, images: PixelSet, preprocessing: Preprocessing, settings: Settings) -> None:
    size = (preprocessing.height, preprocessing.width)
    normalise = make_normaliser(preprocessing, torch.device("cpu"))
    loss, rate = ClipLoss(), settings.learning_rate
    _, scene = make_tasks().columns[-1]
    labels = nn.LazyLinear(scene.stop - scene.start)
    labels(model.encode_image(torch.zeros(1, 3, *size)))  # now it knows its width
    optimizer = torch.optim.AdamW(
        [p for p in (*model.parameters(), *labels.parameters()) if p.requires_grad],
        lr=rate,
        weight_decay=_WEIGHT_DECAY,
        fused=True,
    )
    batch = settings.pretraining_batch_size
    each = max(1, len(images) // batch)
    steps = settings.pretraining_epochs * each
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step % each == 0:
            order = torch.randperm(len(images), generator=generator).numpy()
        part = order[step % each * batch :][:batch]
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(step, steps, _WARMUP)
        pixels, targets, known = images.batch(part)
        planes = normalise(augment(pixels, size, draw_cuts(len(part), generator)))
        shown = model.encode_image(planes)
        matching = loss(
            functional.normalize(shown, dim=-1),
            model.encode_text(_take_titles(images, part), normalize=True),
            model.logit_scale.exp().clamp(max=100.0),
        )
        missed = sum_binary_cross_entropies(labels(shown), targets[:, scene], known[:, scene])
        optimizer.zero_grad(set_to_none=True)
        (matching + _LABELS_WEIGHT * missed / known[:, scene].sum().clamp(min=1)).backward()
        optimizer.step()


@torch.inference_mode()
def _find_titles(model: Any, images: PixelSet, preprocessing: Preprocessing) -> float:
    """Share of pictures whose own title is the nearest of ``_RIVALS`` that follow one another."""
    normalise = make_normaliser(preprocessing, torch.device("cpu"))
    size = (preprocessing.height, preprocessing.width)
    found = 0.0
    for part in split_indices(np.arange(len(images)), _RIVALS):
        pixels = torch.from_numpy(np.array(images.pixels[part]))
        shown = functional.normalize(model.encode_image(normalise(cut_centre(pixels, size))))
        told = functional.normalize(model.encode_text(_take_titles(images, part)))
        nearest = (shown @ told.T).argmax(dim=1)
        found += float((nearest == torch.arange(len(part))).sum())
    return found / max(1, len(images))


def _take_titles(images: PixelSet, indices: npt.NDArray[np.int64]) -> torch.Tensor:
    if images.texts is None:
        raise ValueError("pictures without titles cannot be compared with them")
    return images.texts.batch(indices).tokens
