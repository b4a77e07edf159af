"""What is compared: CMA-CLIP whole, and with one part or one modality less.

The paper's own ablation (arXiv 2112.03562, table 6) takes away the modality-wise attention, then
both attentions. What stands in their place here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import CmaClipConfig

FULL, NO_SEQUENCE, MEAN, CONCATENATION = (
    "CMA-CLIP",
    "no sequence-wise attention",
    "mean of modalities",
    "concatenation",
)
IMAGE, TEXT = "image only", "text only"

# Two layers of four heads: towers of 64 dimensions, and a few minutes for each training.
_SIZES = {"layers": 2, "heads": 4}

ARMS: Mapping[str, CmaClipConfig] = {
    FULL: CmaClipConfig(**_SIZES),
    NO_SEQUENCE: CmaClipConfig(**_SIZES, sequence_attention=False),
    MEAN: CmaClipConfig(**_SIZES, modality_attention="mean"),
    CONCATENATION: CmaClipConfig(
        **_SIZES, sequence_attention=False, modality_attention="concatenation"
    ),
    IMAGE: CmaClipConfig(**_SIZES, modalities="image"),
    TEXT: CmaClipConfig(**_SIZES, modalities="text"),
}
"""Name to parts. ``concatenation`` is plain: without both attentions."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training that the ablation needs.

    Attributes:
        arm: What is trained, one of ``ARMS``.
        seed: Of everything random: first weights, order, cuts, disturbances.
        epochs: Passes over the training images.
    """

    arm: str
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """Of its result's file."""
        return f"{self.arm.replace(' ', '-')}-{self.seed}"

    @property
    def stage(self) -> str:
        """There is one only."""
        return "training"

    @property
    def cost(self) -> float:
        """Passes, weighed by what they take; ours, rounded from a profile."""
        return self.epochs * {TEXT: 0.4, IMAGE: 0.8}.get(self.arm, 1.0)
