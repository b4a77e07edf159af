"""MuMIC as it is trained: from pixels to the logits of all labels.

Shapes: B images, L labels, N texts, T tokens, D embedding, H W input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import FloatPrecision
from pipeline.models.labels import pool_texts
from pipeline.models.linear_head import LinearHead
from pipeline.models.losses import tempered_logits
from pipeline.models.mumic import MuMIC
from pipeline.training.network import Network
from pipeline.training.texts import Companions


class MumicNetwork(Network):
    """MuMIC with the texts of its labels, or a linear head on its image tower.

    Args:
        mumic: The model; changed in place.
        tokens: Every text of every label, [N, T] int64.
        owners: Each text's label, [N] int64.
        image_tower: Train the image tower.
        text_tower: Train the text tower; a linear head has no use for it.
        head: Takes the place of label texts, temperature and bias.
        precision: Arithmetic of the towers. Lengths, cosines and logits are float32 always: a
            temperature makes an error of them up to a hundred times larger.
    """

    def __init__(
        self,
        mumic: MuMIC,
        *,
        tokens: Tensor,
        owners: Tensor,
        image_tower: bool = True,
        text_tower: bool = True,
        head: LinearHead | None = None,
        precision: FloatPrecision = "fp32",
    ) -> None:
        super().__init__(
            image_tower=image_tower, text_tower=text_tower and head is None, precision=precision
        )
        self.mumic, self.head = mumic, head
        # Not buffers: whoever averages weights would average them, too.
        self._tokens, self._owners = tokens, owners
        self._frozen_labels: Tensor | None = None
        self.freeze_towers()

    @property
    def clip(self) -> Any:
        """The open_clip model with both towers."""
        return self.mumic.clip

    def image_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the image tower."""
        return self.mumic.image_parameters()

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the text tower."""
        return self.mumic.text_parameters()

    def embed_labels(self) -> Tensor | None:
        """Label embeddings g, [L, D] float32, with gradients where texts are trained.

        Read once where they are not. None with a linear head.
        """
        if self.head is not None:
            return None
        if self.trained["text"]:
            return self._embed_texts()
        if self._frozen_labels is None:
            self.mumic.clip.eval()
            with torch.no_grad():
                self._frozen_labels = self._embed_texts()
        return self._frozen_labels

    def forward(
        self, planes: Tensor, label_embeddings: Tensor | None, companions: Companions | None = None
    ) -> Tensor:
        """Logits z, [B, L] float32.

        Args:
            planes: [B, 3, H, W], float32, normalised.
            label_embeddings: What :meth:`embed_labels` gave.
            companions: Not read.
        """
        del companions
        if self.head is not None:
            with self._autocast():
                features = self.mumic.clip.encode_image(planes, normalize=False)
            logits: Tensor = self.head(features.float())
            return logits
        if label_embeddings is None:
            raise ValueError("without a linear head there are no logits without label embeddings")
        cosines = self.cosines(planes, label_embeddings)
        return tempered_logits(cosines, tau=self.mumic.tau, bias=self.mumic.bias)

    def cosines(self, planes: Tensor, label_embeddings: Tensor) -> Tensor:
        """Cosines s = f.g, [B, L] float32."""
        with self._autocast():
            embeddings = self.mumic.encode_images(planes)
        return embeddings @ label_embeddings.T

    def constrain(self) -> None:
        """Keep the temperature in its range."""
        self.mumic.clamp_tau()

    def describe(self) -> dict[str, float]:
        """Temperature and bias."""
        return {"tau": float(self.mumic.tau.detach()), "bias": float(self.mumic.bias.detach())}

    def _embed_texts(self) -> Tensor:
        with self._autocast():
            embeddings = self.mumic.encode_texts(self._tokens.to(self.device))
        return pool_texts(embeddings, self._owners)
