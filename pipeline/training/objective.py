"""From the configuration of a loss to what is computed and divided by what.

Shapes: B images, L labels, K parts of a loss.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
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
from pipeline.taxonomy import Task, TaskKind


class Total(Protocol):
    """A loss added up over a batch, with gradients: a float scalar, or one of each part, [K]."""

    def __call__(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """From logits [B, L] float, targets [B, L] and known [B, L] bool."""


class Count(Protocol):
    """What the total is divided by, int64, of its shape."""

    def __call__(self, targets: Tensor, known: Tensor) -> Tensor:
        """From targets [B, L] and known [B, L] bool."""


@dataclass(frozen=True)
class Objective:
    """A loss in two parts, so that a step can see its images in parts.

    Attributes:
        total: Added up over some of a step's images.
        count: Of the same images. The loss is the sum of totals over the sum of counts.
        weights: Of each part where a loss has parts that each have a count, K of them; the loss is
            then the weighted sum of the parts.
    """

    total: Total
    count: Count
    weights: tuple[float, ...] | None = None

    def weigh(self, shares: Tensor) -> Tensor:
        """The loss, a scalar, of totals over counts.

        Args:
            shares: A scalar, or [K].
        """
        if self.weights is None:
            return shares
        return (shares * shares.new_tensor(self.weights)).sum()


_SUMS: Mapping[TaskKind, Total] = {
    "single_label": sum_softmax_cross_entropies,
    "multi_label": sum_binary_cross_entropies,
}
_COUNTS: Mapping[TaskKind, Count] = {
    "single_label": count_labelled,
    "multi_label": count_known,
}


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


def make_task_objective(
    tasks: Sequence[tuple[Task, slice]], weights: Mapping[str, float]
) -> Objective:
    """The sum of the tasks' losses, each a mean over what is known of its task (ours).

    A single_label task has the cross entropy of a softmax over its labels, over images whose label
    is known; a multi_label task the binary cross entropy, over known pairs.

    Args:
        tasks: Each with its columns, K of them.
        weights: Of tasks, by id; 1 for the others.
    """

    def total(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        return torch.stack(
            [_SUMS[task.kind](logits[:, at], targets[:, at], known[:, at]) for task, at in tasks]
        )

    def count(targets: Tensor, known: Tensor) -> Tensor:
        return torch.stack([_COUNTS[task.kind](targets[:, at], known[:, at]) for task, at in tasks])

    return Objective(total, count, tuple(weights.get(task.id, 1.0) for task, _ in tasks))


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
