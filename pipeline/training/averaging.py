"""Weights made from several: a moving average over steps, and a mix of start and end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """An exponential moving average of a module's weights and of its batch norms' statistics.

    Statistics are averaged like weights: those of the last step belong to other weights. Torch's
    ``use_buffers`` would average every buffer, and CLIP's causal mask holds -inf, whose average
    is NaN.

    Args:
        module: Copied.
        decay: Share of the average that an update keeps, 0 to below 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(module, multi_avg_fn=self._average)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``; the first call copies them."""
        first = int(self.n_averaged) == 0
        statistics = _list_statistics(self.module)
        before = [statistic.clone() for statistic in statistics]
        super().update_parameters(model)
        if first or not statistics:
            return
        for statistic, old in zip(statistics, before, strict=True):
            statistic.copy_(old)
        self._average(statistics, _list_statistics(model), None)


def _list_statistics(module: nn.Module) -> list[Tensor]:
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    found = ((norm.running_mean, norm.running_var) for norm in norms)
    return [s for statistics in found for s in statistics if s is not None]


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """All that a module is made of, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def interpolate_weights(
    start: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) start + alpha trained, for every weight (WiSE-FT, arXiv 2109.01903).

    Its paper interpolates CLIP's weights before and after tuning and finds zero-shot ability kept
    at little or no cost where it was tuned. Here temperature (as a logarithm), bias and statistics
    of batch norms are interpolated, too; a network with batch norms may need new statistics.

    Args:
        start: Weights before the training.
        trained: Weights after it, of the same names and shapes.
        alpha: 0 to 1. At 1 the trained weights are given back as they are, bit by bit.
    """
    if alpha == 1:
        return dict(trained)
    return {
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
        for name, value in trained.items()
    }
