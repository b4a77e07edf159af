"""What stands beside the pixels: texts as tokens, and which modalities an image has.

Shapes: N images, B images of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.models.labels import Tokenizer
from pipeline.models.texts import tokenize_texts

# Texts that are tokenized at once.
_TEXTS_PER_PASS = 4096


@dataclass(frozen=True, kw_only=True)
class Companions:
    """Beside the pixels of a batch.

    Attributes:
        tokens: [B, T] int64. Not read where there is no text.
        has_text: [B] bool.
        has_image: [B] bool. Where there is none its pixels are not read.
    """

    tokens: Tensor
    has_text: Tensor
    has_image: Tensor

    def part(self, indices: npt.NDArray[np.int64]) -> Companions:
        """Those of some images."""
        at = torch.from_numpy(indices)
        return Companions(
            tokens=self.tokens[at], has_text=self.has_text[at], has_image=self.has_image[at]
        )

    def to(self, device: torch.device) -> Companions:
        """The same on a device."""
        return Companions(
            tokens=self.tokens.to(device, non_blocking=True),
            has_text=self.has_text.to(device),
            has_image=self.has_image.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """The texts of a set of images.

    Attributes:
        tokens: [N, T] int32.
        present: [N] bool: there is anything to read.
    """

    tokens: npt.NDArray[np.int32]
    present: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    def batch(self, indices: npt.NDArray[np.int64]) -> Companions:
        """What stands beside the pixels of some images, which are there.

        Args:
            indices: [B], any order.
        """
        return Companions(
            tokens=torch.from_numpy(self.tokens[indices].astype(np.int64)),
            has_text=torch.from_numpy(self.present[indices]),
            has_image=torch.ones(len(indices), dtype=torch.bool),
        )


def make_text_set(texts: Sequence[str | None], tokenizer: Tokenizer) -> TextSet:
    """Tokenize texts; too long ones are cut by the tokenizer.

    Args:
        texts: N of them.
        tokenizer: The text tower's.
    """
    parts = [
        tokenize_texts(tokenizer, texts[start : start + _TEXTS_PER_PASS])
        for start in range(0, max(1, len(texts)), _TEXTS_PER_PASS)
    ]
    return TextSet(
        tokens=np.concatenate([part.tokens.numpy() for part in parts]).astype(np.int32),
        present=np.concatenate([part.has_text.numpy() for part in parts]).astype(bool),
    )
