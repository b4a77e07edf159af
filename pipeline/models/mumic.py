"""MuMIC: two towers of any open_clip architecture under a tempered sigmoid.

"The paper" (arXiv 2211.05232) states transfer learning from CLIP with a hardness-aware tempered
sigmoid. What is computed here is ours: for L2-normalised image embedding f and label embedding g

    s = f.g        p(label | image) = sigmoid(s / tau + b)

Whether the paper's temperature is fixed or learnt, and whether it has a bias, is not known.
Shapes: B images, L labels, N texts, T tokens, D embedding, H W input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.losses import tempered_logits
from pipeline.models.tower_parameters import freeze_unused, image_parameters, text_parameters

# CLIP clips its logit scale at 100, and so does everyone who trains from it.
MAX_LOGIT_SCALE = 100.0


class MuMIC(nn.Module):
    """An image tower, a text tower, a temperature and a bias.

    Args:
        clip: An open_clip model: anything with ``encode_image`` and ``encode_text``. Its own logit
            scale and bias are not used, nor is a caption decoder; they are frozen.
        tau: Temperature of the sigmoid, greater than 0.
        bias: Bias of the sigmoid, 0 for the plain form.
        learn_tau: Make log(1 / tau) a parameter.
        learn_bias: Make the bias a parameter.
    """

    logit_scale: Tensor
    logit_bias: Tensor

    def __init__(
        self,
        clip: nn.Module,
        *,
        tau: float,
        bias: float = 0.0,
        learn_tau: bool = False,
        learn_bias: bool = False,
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ValueError(f"tau must be greater than 0, got {tau}")
        self.clip: Any = clip
        freeze_unused(clip)
        # log(1 / tau), as CLIP keeps its temperature: always positive, and steps are relative
        self._keep("logit_scale", torch.tensor(-math.log(tau)), learn=learn_tau)
        self._keep("logit_bias", torch.tensor(float(bias)), learn=learn_bias)

    def _keep(self, name: str, value: Tensor, *, learn: bool) -> None:
        if learn:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @classmethod
    def zero_shot(cls, clip: nn.Module) -> MuMIC:
        """MuMIC with the temperature and bias that ``clip`` was pretrained with.

        With SigLIP weights the probabilities are SigLIP's own.
        """
        given: Any = clip
        bias = getattr(given, "logit_bias", None)
        return cls(
            clip,
            tau=math.exp(-float(given.logit_scale.detach())),
            bias=0.0 if bias is None else float(bias.detach()),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.logit_scale.device

    @property
    def tau(self) -> Tensor:
        """Temperature, a 0-d float32 tensor on the model's device, with its gradient if learnt."""
        return torch.exp(-self.logit_scale)

    @property
    def bias(self) -> Tensor:
        """Bias, a 0-d float32 tensor on the model's device, with its gradient if learnt."""
        return self.logit_bias

    def image_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the image tower."""
        return image_parameters(self.clip)

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the text tower."""
        return text_parameters(self.clip)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Embed images.

        Args:
            pixels: [B, 3, H, W], float, normalised with the preprocessing's mean and std.

        Returns:
            f, [B, D], float32, rows of length 1.
        """
        return _unit(self.clip.encode_image(pixels))

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Embed tokenized texts.

        Args:
            tokens: [N, T], int64, from the towers' tokenizer.

        Returns:
            [N, D], float32, rows of length 1.
        """
        return _unit(self.clip.encode_text(tokens))

    def logits(self, image_embeddings: Tensor, label_embeddings: Tensor) -> Tensor:
        """The argument of the sigmoid, s / tau + b.

        Args:
            image_embeddings: f, [B, D], float32, rows of length 1.
            label_embeddings: g, [L, D], float32, rows of length 1.

        Returns:
            [B, L], float32.
        """
        cosines = image_embeddings @ label_embeddings.T
        return tempered_logits(cosines, tau=self.tau, bias=self.bias)

    @torch.no_grad()
    def clamp_tau(self) -> None:
        """Keep 1 / tau within 1 to 100, as CLIP does. Call it after each step that learns tau."""
        self.logit_scale.clamp_(0.0, math.log(MAX_LOGIT_SCALE))


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=-1)
