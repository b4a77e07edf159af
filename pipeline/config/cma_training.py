"""What the training of CMA-CLIP is told beyond what every training is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DisturbanceConfig:
    """Shares of the training images whose text or picture is taken away or spoilt.

    Never both of one image. Without it nothing teaches the model when to trust which: ours, how
    CMA-CLIP was trained is not known.

    Attributes:
        text_dropout: The text is taken away.
        text_swap: The text is another image's.
        image_dropout: The picture is taken away, where there is a text.
        image_swap: The picture is another image's, where there is a text.
        image_noise: The picture is noise, where there is a text.
    """

    text_dropout: float = 0.1
    text_swap: float = 0.1
    image_dropout: float = 0.1
    image_swap: float = 0.1
    image_noise: float = 0.1


@dataclass(frozen=True, kw_only=True)
class CmaTrainingConfig:
    """How CMA-CLIP learns its tasks.

    Attributes:
        task_weights: Weight of a task's loss in their sum, by task id; 1 for tasks not named.
        disturbance: How often texts and pictures are taken away or spoilt.
    """

    task_weights: Mapping[str, float] = field(default_factory=dict)
    disturbance: DisturbanceConfig = field(default_factory=DisturbanceConfig)
