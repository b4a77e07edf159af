"""Weights made from several: a moving average over steps, and a mix of start and end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def make_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of a module's weights and statistics, or None for no decay.

    Statistics of batch norms are averaged like weights: those of the last step belong to other
    weights.

    Args:
        module: Copied.
        decay: Share of the average that an update keeps, 0 to below 1.
    """
    if decay == 0:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


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
