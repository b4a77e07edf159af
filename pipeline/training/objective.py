"""From the configuration of a loss to what is computed and divided by what.

Shapes: B images, L labels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from pipeline.config import LossConfig
from pipeline.models.losses import (
    count_known,
    count_labelled,
    sum_asymmetric_losses,
    sum_binary_cross_entropies,
    sum_softmax_cross_entropies,
)
from pipeline.models.mumic import MuMIC


class Total(Protocol):
    """A loss added up over a batch; a float scalar with gradients."""

    def __call__(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """From logits [B, L] float, targets [B, L] and known [B, L] bool."""


class Count(Protocol):
    """What the total is divided by; a 0-d int64 tensor."""

    def __call__(self, targets: Tensor, known: Tensor) -> Tensor:
        """From targets [B, L] and known [B, L] bool."""


@dataclass(frozen=True)
class Objective:
    """A loss in two parts, so that a step can see its images in parts.

    Attributes:
        total: Added up over a part of a step's images.
        count: Of the same part. The loss is the sum of totals over the sum of counts.
    """

    total: Total
    count: Count


def make_objective(loss: LossConfig) -> Objective:
    """The loss that a configuration names."""
    if loss.kind == "asymmetric":
        asymmetric = functools.partial(
            sum_asymmetric_losses,
            gamma_negative=loss.gamma_negative,
            gamma_positive=loss.gamma_positive,
            margin=loss.margin,
        )
        return Objective(asymmetric, count_known)
    if loss.kind == "softmax":
        return Objective(sum_softmax_cross_entropies, count_labelled)
    return Objective(sum_binary_cross_entropies, count_known)


def make_mumic(clip: nn.Module, loss: LossConfig) -> MuMIC:
    """MuMIC with the temperature and bias that a loss has, learnt where it says so.

    Args:
        clip: An open_clip model.
        loss: Plain BCE and a linear head have no temperature, so it stays 1. They have no bias of
            MuMIC's either, and no softmax notices one.
    """
    has_tau = loss.kind not in ("plain_bce", "linear_head")
    return MuMIC(
        clip,
        tau=loss.tau if has_tau else 1.0,
        learn_tau=has_tau and loss.learn_tau,
        learn_bias=has_bias(loss) and loss.kind != "linear_head",
    )


def has_bias(loss: LossConfig) -> bool:
    """Whether a bias is learnt: MuMIC's, or a linear head's."""
    return loss.kind in ("tempered_sigmoid", "asymmetric", "linear_head") and loss.bias != "none"
