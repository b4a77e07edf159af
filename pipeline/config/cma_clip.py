"""The parts of CMA-CLIP beside its towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModalityAttention = Literal["keyless", "mean", "concatenation"]
Modalities = Literal["both", "image", "text"]


@dataclass(frozen=True, kw_only=True)
class CmaClipConfig:
    """The parts of CMA-CLIP beside its towers; kept in the bundle, and part of model_version.

    Layers and heads are this project's choice: the paper does not tell its own.

    Attributes:
        layers: Layers of the sequence-wise attention.
        heads: Its heads; they divide the width of the joint space.
        sequence_attention: Let patches and words attend to each other. Without it only the two
            class tokens are read.
        modality_attention: How a task joins the two class tokens: ``keyless`` weighs them by what
            they say, ``mean`` equally, ``concatenation`` puts them side by side.
        modalities: What is read: ``both``, or one alone.
    """

    layers: int = 3
    heads: int = 8
    sequence_attention: bool = True
    modality_attention: ModalityAttention = "keyless"
    modalities: Modalities = "both"
