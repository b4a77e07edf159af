"""What an ablation is told."""

from __future__ import annotations

from dataclasses import dataclass

# A small residual network as CLIP's (3 million weights, half of them token embeddings) on small
# pictures, since it is trained some eighty times: a core takes it through 290 images a second,
# one of 64 pixels through 140.
ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 48,
        "layers": [1, 1, 1, 1],
        "width": 16,
        "head_width": 64,
        "patch_size": None,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that results depend on, but for the machine.

    Attributes:
        manifest: A labelled manifest; None: the synthetic catalogue.
        taxonomy: Its taxonomy file.
        architecture: An open_clip name or a model configuration (.json).
        pretrained: Weights the towers start from; None: random ones.
        images: Of the synthetic catalogue, all splits together.
        validation_share: Of the synthetic catalogue.
        test_share: Of the synthetic catalogue.
        max_side: Longest side of its pictures.
        taus: Fixed temperatures of the tempered sigmoid.
        variants: Names of those that are screened; empty: all that there are.
        screening_epochs: Passes of a training of the screening.
        final_epochs: Passes of a training of the finals.
        seeds: Of the finals. None of them is the screening's, which chose who is there.
        batch_size: Images per step.
        learning_rate: Peak rate of the towers.
        resamples: Of the bootstrap over test images.
    """

    manifest: str | None
    taxonomy: str | None
    architecture: str
    pretrained: str | None
    images: int
    validation_share: float
    test_share: float
    max_side: int
    taus: tuple[float, ...]
    variants: tuple[str, ...]
    screening_epochs: int
    final_epochs: int
    seeds: int
    batch_size: int
    learning_rate: float
    resamples: int
