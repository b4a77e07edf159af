"""How the weights move: AdamW with decay on matrices only, warm-up, cosine, a rate for each part.

The recipe is the one usual for tuning CLIP; that MuMIC was trained so is not known.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.config import OptimizerConfig
from pipeline.errors import ConfigurationError
from pipeline.training.network import Network

# CLIP's betas for its smaller models (arXiv 2103.00020, table 19); the usual 0.999 is slower to
# forget the first steps of a training as short as ours.
_BETAS = (0.9, 0.98)


def make_optimizer(network: Network, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all that moves, a group for each part with and without decay.

    Each group keeps its part's peak rate under ``peak``.

    Raises:
        ConfigurationError: Nothing is left to train.
    """
    rates = {
        "image": config.image_learning_rate,
        "text": config.text_learning_rate,
        "head": config.head_learning_rate,
    }
    groups = []
    for part, parameters in _split_parameters(network).items():
        rate = rates[part]
        peak = config.learning_rate if rate is None else rate
        for decays in (True, False):
            if of_group := [p for p in parameters if (p.ndim > 1) == decays]:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": of_group, "lr": peak, "peak": peak, "weight_decay": decay})
    if not groups:
        raise ConfigurationError(
            "nothing is left to train",
            where="optimizer.image_tower, optimizer.text_tower, loss",
            todo="train a tower, or what MuMIC or CMA-CLIP has beside them",
        )
    return torch.optim.AdamW(groups, betas=_BETAS, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: rises over ``warmup * steps`` steps, then a cosine to 0.

    Args:
        step: 0 to steps - 1.
        steps: Of the whole training.
        warmup: Share of the steps, 0 to 1.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _split_parameters(network: Network) -> dict[str, list[nn.Parameter]]:
    """What moves, by part: the towers, and all else (temperature, bias, attentions, heads)."""
    towers = {
        "image": [p for _, p in network.image_parameters() if p.requires_grad],
        "text": [p for _, p in network.text_parameters() if p.requires_grad],
    }
    of_towers = {id(p) for parameters in towers.values() for p in parameters}
    head = [p for p in network.parameters() if p.requires_grad and id(p) not in of_towers]
    return {**towers, "head": head}
