"""What one training does again and again: a step of the optimizer.

A step's loss is a mean over all that is known in it, whatever the parts it is computed in: each
micro-batch of each process divides its total by the count of the whole step, and gradients are
added up. Batch norms alone see the parts: a convolutional tower normalises each micro-batch of
each process by that micro-batch's own mean and variance, and keeps the statistics of process 0.

Shapes: B images, L labels; H W of the input, CH CW of the cache.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import OptimizerConfig
from pipeline.errors import ConfigurationError
from pipeline.images.preprocess import Preprocessing
from pipeline.training.averaging import MovingAverage
from pipeline.training.network import Network
from pipeline.training.objective import Objective
from pipeline.training.optimizer import make_optimizer
from pipeline.training.pixels import augment, cut_centre
from pipeline.training.processes import SINGLE, Processes
from pipeline.training.texts import Companions
from pipeline.training.validation import make_normaliser


class Trainer:
    """A network, its optimizer and all else that stays from step to step.

    Args:
        network: Changed in place, moved to ``device``.
        objective: What is minimised.
        preprocessing: The model's.
        config: How the weights move.
        device: Where to train.
        augmented: Random crops and flips.
        processes: Who else trains, each with images of its own.

    Raises:
        ConfigurationError: Nothing is left to train, or a step has too few images for the
            processes.
    """

    def __init__(
        self,
        network: Network,
        *,
        objective: Objective,
        preprocessing: Preprocessing,
        config: OptimizerConfig,
        device: torch.device,
        augmented: bool,
        processes: Processes = SINGLE,
    ) -> None:
        if config.batch_size % processes.count:
            raise ConfigurationError(
                "the images of a step cannot be shared evenly",
                where="optimizer.batch_size",
                expected=f"a multiple of distribution.processes ({processes.count})",
                got=config.batch_size,
            )
        self.network = network.to(device)
        # Convolutions of small networks take a third less time so (measured on a CPU).
        network.clip.visual.to(memory_format=torch.channels_last)
        self.objective, self.config, self.processes = objective, config, processes
        self.device, self.augmented = device, augmented
        self.size = (preprocessing.height, preprocessing.width)
        self.normalise = make_normaliser(preprocessing, device)
        self.optimizer = make_optimizer(network, config)
        self.moving = [p for group in self.optimizer.param_groups for p in group["params"]]
        # bf16 has the range of float32; fp16 has not, and small gradients would vanish.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        network.embed_labels()
        self.average = MovingAverage(network, config.ema_decay) if config.ema_decay else None

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the average, where there is one."""
        if self.average is None:
            return self.network
        return cast("Network", self.average.module)

    @property
    def share(self) -> int:
        """Images of a step that are this process'."""
        return self.config.batch_size // self.processes.count

    @property
    def micro_batch(self) -> int:
        """Images that go through the towers at once."""
        return self.config.micro_batch_size or self.share

    def planes(self, pixels: Tensor, cuts: Tensor | None) -> Tensor:
        """The image tower's input, [B, 3, H, W], of pixels [B, CH, CW, 3] uint8."""
        pixels = pixels.to(self.device, non_blocking=True)
        if cuts is None:
            return self.normalise(cut_centre(pixels, self.size))
        return self.normalise(augment(pixels, self.size, cuts))

    def step(
        self,
        pixels: Tensor,
        targets: Tensor,
        known: Tensor,
        cuts: Tensor | None = None,
        companions: Companions | None = None,
    ) -> Tensor:
        """One step of the optimizer. Returns the loss before it, a scalar without gradient.

        Args:
            pixels: This process' images of the step, [B, CH, CW, 3] uint8.
            targets: [B, L] float32. Ignored where unknown.
            known: [B, L] bool.
            cuts: Affine maps, [B, 2, 3]; None for the middle of the images.
            companions: What stands beside them; needed where the network reads it.
        """
        loss = self.compute_gradients(pixels, targets, known, cuts, companions)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.moving, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.network.constrain()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

    def compute_gradients(
        self,
        pixels: Tensor,
        targets: Tensor,
        known: Tensor,
        cuts: Tensor | None = None,
        companions: Companions | None = None,
    ) -> Tensor:
        """Gradients of a step's loss, and the loss: the same in every process.

        Args:
            pixels: This process' images of the step, [B, CH, CW, 3] uint8.
            targets: [B, L] float32. Ignored where unknown.
            known: [B, L] bool.
            cuts: Affine maps, [B, 2, 3]; None for the middle of the images.
            companions: What stands beside them; needed where the network reads it.
        """
        self.optimizer.zero_grad(set_to_none=True)
        count = self.processes.add_up(self.objective.count(targets, known)).clamp(min=1)
        label_embeddings = self.network.embed_labels()
        # Texts pass their tower once a step: micro-batches gather the gradient at its output.
        leaf = None if label_embeddings is None else label_embeddings.detach()
        if leaf is not None and label_embeddings is not None:
            leaf.requires_grad_(label_embeddings.requires_grad)
        loss = torch.zeros((), device=self.device)
        for part in split_indices(np.arange(len(pixels)), self.micro_batch):
            planes = self.planes(pixels[part], None if cuts is None else cuts[part])
            beside = None if companions is None else self.network.take(companions.part(part))
            total = self.objective.total(
                self.network(planes, leaf, beside),
                targets[part].to(self.device),
                known[part].to(self.device),
            )
            share = self.objective.weigh(total / count.to(self.device))
            self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        if leaf is not None and label_embeddings is not None and leaf.grad is not None:
            label_embeddings.backward(leaf.grad)  # type: ignore[no-untyped-call]
        self.processes.add_up_gradients(self.moving)
        return self.processes.add_up(loss)


def split_indices(indices: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Cut indices into parts of a size; the last may be smaller."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]
