"""What the epochs of a training came to: the best one, its weights, and whether more would help."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from pipeline.config import OptimizerConfig
from pipeline.evaluation.metrics import RankingMetrics
from pipeline.training.averaging import copy_weights


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images came to.

    Attributes:
        loss: Mean over its steps.
        validation: Figures on the validation images; None without any.
    """

    loss: float
    validation: RankingMetrics | None

    @property
    def gap(self) -> float:
        """Validation GAP; -1 where there is none."""
        figures = self.validation
        return -1.0 if figures is None or math.isnan(figures.gap) else figures.gap


@dataclass
class History:
    """The epochs so far.

    Attributes:
        best_weights: Of the best epoch, on the CPU.
        epochs: What each came to.
        best: Index of the best one.
        images: Training images seen.
        seconds: Spent in training steps.
    """

    best_weights: dict[str, Tensor]
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    images: int = 0
    seconds: float = 0.0

    def note(self, epoch: Epoch, kept: nn.Module, *, images: int, seconds: float) -> None:
        """Add an epoch, and keep its weights where none was better.

        Without validation every epoch ties with the best, so the last one is kept.
        """
        self.epochs.append(epoch)
        self.images += images
        self.seconds += seconds
        if epoch.gap >= self.epochs[self.best].gap:
            self.best, self.best_weights = len(self.epochs) - 1, copy_weights(kept)

    def is_over(self, config: OptimizerConfig) -> bool:
        """All epochs are done, or the last ``patience`` of them were no better than one before.

        Without validation there is nothing to lose patience with.
        """
        gaps = [epoch.gap for epoch in self.epochs]
        if len(gaps) >= config.epochs:
            return True
        if config.patience is None or len(gaps) <= config.patience or gaps[-1] < 0:
            return False
        return max(gaps[-config.patience :]) <= max(gaps[: -config.patience])
