"""CMA-CLIP as it is trained: from pixels and texts to the logits of all tasks.

Shapes: B images, L labels, H W input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import FloatPrecision
from pipeline.models.cma_clip import CmaClip
from pipeline.taxonomy import Taxonomy
from pipeline.training.network import Network
from pipeline.training.texts import Companions


class CmaNetwork(Network):
    """CMA-CLIP with its towers frozen or not.

    Args:
        model: The model; changed in place.
        taxonomy: Its tasks.
        image_tower: Train the image tower; one that is not read is not trained.
        text_tower: Train the text tower; one that is not read is not trained.
        precision: Arithmetic of towers and sequence-wise attention.
    """

    def __init__(
        self,
        model: CmaClip,
        taxonomy: Taxonomy,
        *,
        image_tower: bool = True,
        text_tower: bool = True,
        precision: FloatPrecision = "fp32",
    ) -> None:
        super().__init__(
            image_tower=image_tower and model.reads_image,
            text_tower=text_tower and model.reads_text,
            precision=precision,
        )
        self.model, self.tasks = model, taxonomy.columns
        self.reads_text = model.reads_text
        self.freeze_towers()

    @property
    def clip(self) -> Any:
        """The open_clip model with both towers."""
        return self.model.clip

    def image_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the image tower."""
        return self.model.image_parameters()

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the text tower."""
        return self.model.text_parameters()

    def take(self, companions: Companions) -> Companions:
        """Texts as long as the longest of them, on the model's device."""
        tokens = self.model.trim_padding(companions.tokens)
        return super().take(replace(companions, tokens=tokens))

    def forward(
        self, planes: Tensor, label_embeddings: Tensor | None, companions: Companions | None = None
    ) -> Tensor:
        """Logits of all tasks side by side, [B, L] float32.

        A model that reads one modality alone reads it from every row: a blank text is one, too.

        Args:
            planes: [B, 3, H, W], float32, normalised.
            label_embeddings: There are none.
            companions: Of the same images, from :meth:`take`; of none where no text is read.

        Raises:
            ValueError: Texts are read and there are no companions.
        """
        del label_embeddings
        if companions is None and self.reads_text:
            raise ValueError("texts are read, and none were given")
        shown = planes if self.model.reads_image else None
        with self._autocast():
            if companions is None or not self.reads_text:
                output = self.model(shown, None)
            elif shown is None:
                output = self.model(None, companions.tokens)
            else:
                output = self.model(
                    shown,
                    companions.tokens,
                    has_image=companions.has_image,
                    has_text=companions.has_text,
                )
        return torch.cat(output.logits, dim=1)

    def rank(self, logits: Tensor) -> Tensor:
        """Logarithms of the scores, [B, L]: of a softmax or a sigmoid, as the task's kind is.

        Args:
            logits: [B, L].
        """
        parts = [
            logits[:, at].log_softmax(dim=1)
            if task.kind == "single_label"
            else functional.logsigmoid(logits[:, at])
            for task, at in self.tasks
        ]
        return torch.cat(parts, dim=1)
