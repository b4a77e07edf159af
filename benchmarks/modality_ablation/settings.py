"""What the ablation is told."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import DisturbanceConfig

# A small vision transformer and a small text tower as CLIP's: thirty trainings read through them.
# Patches of 8 pixels take three times as long.
ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 64,
        "layers": 3,
        "width": 96,
        "patch_size": 16,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}

# Of a picture and a title that do not belong together nothing says which one is wrong: swapped as
# often, no weight could learn to fall. Here the titles are, as in catalogues; pictures are noise.
# Much is spoilt: at a tenth each the model kept trusting swapped titles in full.
DISTURBANCE = DisturbanceConfig(
    text_dropout=0.15, text_swap=0.25, image_dropout=0.1, image_swap=0.0, image_noise=0.2
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that results depend on, but for the machine.

    Attributes:
        architecture: A model configuration (.json).
        images: Of the synthetic catalogue, all splits together.
        validation_share: Of the images.
        test_share: Of the images.
        max_side: Longest side of the pictures.
        pretraining_epochs: Passes of the training of the towers, which all arms share.
        pretraining_batch_size: Pictures and titles it compares with each other.
        epochs: Passes of each training.
        seeds: Trainings of each arm.
        batch_size: Images per step.
        learning_rate: Peak rate of the towers first, then of an arm's own parts.
        disturbance: Shares of the training images whose text or picture is spoilt; the same for
            all arms that read both.
    """

    architecture: str
    images: int
    validation_share: float
    test_share: float
    max_side: int
    pretraining_epochs: int
    pretraining_batch_size: int
    epochs: int
    seeds: int
    batch_size: int
    learning_rate: float
    disturbance: DisturbanceConfig
