"""What is trained, as one module: from pixels, and what stands beside them, to all logits.

Training knows no kind of model beyond this: :mod:`pipeline.training.mumic_network` and
:mod:`pipeline.training.cma_network` are the two there are.

Shapes: B images, L labels, D embedding, H W input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import FloatPrecision
from pipeline.training.texts import Companions

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Network(nn.Module):
    """Two towers, and what a model has beyond them.

    Attributes:
        reads_text: Whether what stands beside the pixels is read.
        trained: Whether the towers, ``image`` and ``text``, are.
    """

    reads_text: bool = False
    trained: Mapping[str, bool]

    def __init__(self, *, image_tower: bool, text_tower: bool, precision: FloatPrecision) -> None:
        super().__init__()
        self.trained = {"image": image_tower, "text": text_tower}
        self.precision: FloatPrecision = precision

    @property
    def clip(self) -> Any:
        """The open_clip model with both towers."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def image_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the image tower."""
        raise NotImplementedError

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the text tower."""
        raise NotImplementedError

    def freeze_towers(self) -> None:
        """Let gradients into trained towers only."""
        for part, parameters in (
            ("image", self.image_parameters()),
            ("text", self.text_parameters()),
        ):
            for _, parameter in parameters:
                parameter.requires_grad_(self.trained[part])

    def train_trained(self) -> None:
        """Train mode for trained towers only: frozen batch norms keep their statistics."""
        self.train()
        self.clip.train(self.trained["text"])
        self.clip.visual.train(self.trained["image"])

    def embed_labels(self) -> Tensor | None:
        """Embeddings that every micro-batch of a step shares, [L, D]; None where there are none."""
        return None

    def take(self, companions: Companions) -> Companions:
        """What stands beside the pixels, ready for :meth:`forward`."""
        return companions.to(self.device)

    def forward(
        self, planes: Tensor, label_embeddings: Tensor | None, companions: Companions | None = None
    ) -> Tensor:
        """Logits z, [B, L] float32.

        Args:
            planes: [B, 3, H, W], float32, normalised.
            label_embeddings: What :meth:`embed_labels` gave.
            companions: Of the same images, from :meth:`take`; needed where texts are read.
        """
        raise NotImplementedError

    def constrain(self) -> None:
        """Put parameters back into their range, after a step."""

    def rank(self, logits: Tensor) -> Tensor:
        """What labels of all tasks are ranked by, [B, L]; any scale that is the same for all."""
        return logits

    def describe(self) -> dict[str, float]:
        """Numbers that say where a training is, by name."""
        return {}

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])
