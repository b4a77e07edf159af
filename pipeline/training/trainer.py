"""What one training does again and again: a step, an epoch, a look at the validation images.

The recipe (AdamW with decay on matrices only, warm-up, cosine, clipping) is the one usual for
tuning CLIP; that MuMIC was trained so is not known. Which epoch's weights are kept is decided in
:mod:`pipeline.training.loop`.

Shapes: B images, L labels, N texts, T tokens, D embedding; H W of the input, CH CW of the cache.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.config import OptimizerConfig
from pipeline.errors import ConfigurationError, ModelError
from pipeline.evaluation.metrics import RankingMetrics, make_ranking_metrics
from pipeline.images.preprocess import Preprocessing
from pipeline.models.labels import pool_texts
from pipeline.models.losses import prior_bias, tempered_sigmoid_bce
from pipeline.models.mumic import MuMIC
from pipeline.training.pixels import PixelSet, augment, cut_centre

# CLIP's betas for its smaller models (arXiv 2103.00020, table 19); the usual 0.999 is slower to
# forget the first steps of a training as short as ours.
_BETAS = (0.9, 0.98)
# Images that decide where the bias starts.
_PRIOR_IMAGES = 256
_SECONDS_BETWEEN_BARS = 1.0


class Trainer:
    """A model, its optimizer and all else that stays from step to step.

    Args:
        mumic: The model; changed in place, moved to ``device``.
        tokens: Every text of every label, [N, T] int64.
        owners: Each text's label, [N] int64.
        preprocessing: The model's.
        config: How the weights move.
        device: Where to train.
        augmented: Random crops and flips.

    Raises:
        ConfigurationError: Nothing is left to train.
    """

    def __init__(
        self,
        mumic: MuMIC,
        *,
        tokens: Tensor,
        owners: Tensor,
        preprocessing: Preprocessing,
        config: OptimizerConfig,
        device: torch.device,
        augmented: bool,
    ) -> None:
        self.mumic = mumic.to(device)
        # Convolutions of small networks take a third less time so (measured on a CPU).
        mumic.clip.visual.to(memory_format=torch.channels_last)
        self.tokens, self.owners = tokens.to(device), owners.to(device)
        self.preprocessing, self.config = preprocessing, config
        self.device, self.augmented = device, augmented
        self.normalise = _make_normaliser(preprocessing, device)
        # On the CPU: every device sees the same images in the same order.
        self.generator = torch.Generator().manual_seed(config.seed)
        for trained, parameters in (
            (config.image_tower, mumic.image_parameters()),
            (config.text_tower, mumic.text_parameters()),
        ):
            for _, parameter in parameters:
                parameter.requires_grad_(trained)
        moving = [parameter for parameter in mumic.parameters() if parameter.requires_grad]
        if not moving:
            raise ConfigurationError(
                "nothing is left to train",
                where="optimizer.image_tower, optimizer.text_tower, loss",
                todo="train a tower, the temperature or the bias",
            )
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in moving if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in moving if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        self.moving = moving
        self.frozen_labels = None if config.text_tower else self.embed_labels()

    def embed_labels(self) -> Tensor:
        """Label embeddings g, [L, D], with gradients where the text tower is trained."""
        if not self.config.text_tower:
            self.mumic.eval()
            with torch.no_grad():
                return pool_texts(self.mumic.encode_texts(self.tokens), self.owners)
        return pool_texts(self.mumic.encode_texts(self.tokens), self.owners)

    def labels(self) -> Tensor:
        """Label embeddings for the next step."""
        return self.embed_labels() if self.frozen_labels is None else self.frozen_labels

    def train_mode(self) -> None:
        """Train mode for trained towers only: frozen batch norms keep their statistics."""
        self.mumic.train()
        self.mumic.clip.train(self.config.text_tower)
        self.mumic.clip.visual.train(self.config.image_tower)

    def images_per_epoch(self, images: PixelSet) -> int:
        """Images seen in an epoch: full batches only, unless there is not one."""
        batch_size = self.config.batch_size
        return max(len(images) // batch_size * batch_size, min(len(images), batch_size))

    def cosines(self, pixels: Tensor, label_embeddings: Tensor) -> Tensor:
        """Cosines s = f.g, [B, L], of pixels [B, CH, CW, 3] uint8."""
        pixels = pixels.to(self.device, non_blocking=True)
        size = (self.preprocessing.height, self.preprocessing.width)
        if self.augmented:
            planes = augment(pixels, size, self.generator)
        else:
            planes = cut_centre(pixels, size)
        return self.mumic.encode_images(self.normalise(planes)) @ label_embeddings.T

    @torch.no_grad()
    def start_at_prior(self, training: PixelSet) -> None:
        """Set the bias so that first predictions equal the prevalence of the labels."""
        self.train_mode()
        indices = np.sort(
            torch.randperm(len(training), generator=self.generator)[:_PRIOR_IMAGES].numpy()
        )
        label_embeddings = self.labels()
        cosines, negatives = [], []
        for start in range(0, len(indices), self.config.batch_size):
            part = indices[start : start + self.config.batch_size]
            pixels, targets, known = training.batch(part)
            cosines.append(self.cosines(pixels, label_embeddings).cpu())
            negatives.append(known & (targets == 0))
        mean = float(torch.cat(cosines)[torch.cat(negatives)].mean())
        positives = float((training.targets & training.known).sum())
        prevalence = positives / max(1.0, float(training.known.sum()))
        self.mumic.logit_bias.fill_(
            prior_bias(
                prevalence, 0.0 if math.isnan(mean) else mean, float(self.mumic.tau.detach())
            )
        )

    def epoch(self, index: int, training: PixelSet, *, progress: bool) -> float:
        """One pass over the images, in a new order. Returns the mean loss of its steps."""
        self.train_mode()
        batch_size, used = self.config.batch_size, self.images_per_epoch(training)
        order = torch.randperm(len(training), generator=self.generator)[:used].numpy()
        steps = -(-used // batch_size)
        total = torch.zeros((), device=self.device)
        with tqdm(
            desc=f"epoch {index + 1} of {self.config.epochs}",
            total=used,
            unit="img",
            file=sys.stderr,
            disable=not progress,
            leave=False,
            mininterval=_SECONDS_BETWEEN_BARS,
        ) as bar:
            for step in range(steps):
                part = order[step * batch_size : (step + 1) * batch_size]
                factor = learning_rate_factor(
                    index * steps + step, self.config.epochs * steps, self.config.warmup
                )
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * factor
                total += self.step(*training.batch(part))
                bar.update(len(part))
        mean = float(total) / steps
        if not math.isfinite(mean):
            raise ModelError(
                "the training diverged",
                where=f"epoch {index + 1}",
                got=f"loss {mean}",
                todo="lower optimizer.learning_rate or raise optimizer.warmup",
            )
        return mean

    def step(self, pixels: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """One step of the optimizer. Returns the loss before it, a scalar without gradient."""
        cosines = self.cosines(pixels, self.labels())
        loss = tempered_sigmoid_bce(
            cosines,
            targets.to(self.device),
            known.to(self.device),
            tau=self.mumic.tau,
            bias=self.mumic.bias,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.moving, self.config.clip_norm)
        self.optimizer.step()
        self.mumic.clamp_tau()
        return loss.detach()

    def evaluate(self, images: PixelSet) -> RankingMetrics:
        """Figures of the model as it is, without augmentation."""
        self.mumic.eval()
        with torch.no_grad():
            label_embeddings = self.labels()
        logits = score_images(
            self.mumic,
            label_embeddings,
            images,
            preprocessing=self.preprocessing,
            batch_size=self.config.batch_size,
            device=self.device,
        )
        if not np.isfinite(logits).all():
            raise ModelError(
                "the training diverged",
                where="validation",
                got="scores that are not finite",
                todo="lower optimizer.learning_rate or raise optimizer.warmup",
            )
        return make_ranking_metrics(logits, images.targets, images.known)


def score_images(
    mumic: MuMIC,
    label_embeddings: Tensor,
    images: PixelSet,
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device,
) -> npt.NDArray[np.float64]:
    """Logits of every image and label, [images, L]; the model is left in eval mode.

    Args:
        mumic: The model, on ``device``.
        label_embeddings: g, [L, D] float32, on ``device``.
        images: Cached at the model's input size.
        preprocessing: The model's.
        batch_size: Images per forward pass.
        device: Where to compute.
    """
    mumic.eval()
    normalise = _make_normaliser(preprocessing, device)
    size = (preprocessing.height, preprocessing.width)
    scores = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)))
            pixels = cut_centre(images.batch(indices)[0].to(device), size)
            logits = mumic.logits(mumic.encode_images(normalise(pixels)), label_embeddings)
            scores.append(logits.double().cpu().numpy())
    return np.concatenate(scores)


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: rises over ``warmup * steps`` steps, then a cosine to 0.

    Args:
        step: 0 to steps - 1.
        steps: Of the whole training.
        warmup: Share of the steps, 0 to 1.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _make_normaliser(
    preprocessing: Preprocessing, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """From planes [B, 3, H, W] of 0 to 255 to the image tower's input."""
    mean = 255.0 * torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = 255.0 * torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    return lambda planes: ((planes - mean) / std).contiguous(memory_format=torch.channels_last)
