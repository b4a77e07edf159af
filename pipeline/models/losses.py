"""The tempered sigmoid and its binary cross entropy.

"The paper" (MuMIC, arXiv 2211.05232) states a "hardness-aware tempered sigmoid based Binary Cross
Entropy" loss. The formulas below are ours. Shapes: B images, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def tempered_logits(cosines: Tensor, *, tau: Tensor | float, bias: Tensor | float) -> Tensor:
    """The argument of the sigmoid: s / tau + b (ours).

    Args:
        cosines: s, any shape, float, within -1 to 1.
        tau: Temperature, greater than 0; a 0-d tensor where it is learnt.
        bias: b; 0 for the plain form, learnable for the SigLIP form.
    """
    return cosines / tau + bias


def tempered_sigmoid_bce(
    cosines: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    tau: Tensor | float,
    bias: Tensor | float,
) -> Tensor:
    """Mean binary cross entropy of p = sigmoid(s / tau + b) over known pairs (ours).

    For a negative dL/ds is proportional to sigmoid(s / tau + b) / tau: where s / tau + b << 0 the
    relative weights of negatives are exp(s / tau), so hard negatives dominate; where it is >> 0
    every negative weighs the same.

    Args:
        cosines: s = f.g, [B, L], float, within -1 to 1.
        targets: 1 where the label holds, else 0, [B, L], bool or number. Ignored where unknown.
        known: False where nobody checked the label, [B, L], bool. None: all known.
        tau: Temperature, greater than 0; a 0-d tensor where it is learnt.
        bias: b; a 0-d tensor where it is learnt.

    Returns:
        A float scalar; 0 (with a gradient of 0) where nothing is known.
    """
    logits = tempered_logits(cosines, tau=tau, bias=bias)
    if known is None:
        return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    # Unknown targets may hold anything, NaN too, and 0 * NaN is NaN: replace, then mask.
    safe_targets = torch.where(known, targets.to(logits.dtype), torch.zeros_like(logits))
    losses = functional.binary_cross_entropy_with_logits(logits, safe_targets, reduction="none")
    return torch.where(known, losses, torch.zeros_like(losses)).sum() / known.sum().clamp(min=1)


def prior_bias(
    prevalence: float | Sequence[float], mean_negative_cosine: float, tau: float
) -> float:
    """The bias that makes first predictions equal the prevalence (ours).

    b0 = logit(prevalence) - mean negative cosine / tau. Without it, similar texts and images start
    with s / tau >> 0 and a saturated sigmoid.

    Args:
        prevalence: Share of positive (image, label) pairs, or one share for each label (their mean
            counts). Kept within 1e-6 of 0 and 1.
        mean_negative_cosine: Mean s over negative pairs before training, -1 to 1.
        tau: Temperature at the start, greater than 0.
    """
    shares = [prevalence] if isinstance(prevalence, int | float) else list(prevalence)
    share = min(max(math.fsum(shares) / len(shares), 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share)) - mean_negative_cosine / tau
