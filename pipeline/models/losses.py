"""Losses over images and labels, each with its formula and its source.

"The paper" (MuMIC, arXiv 2211.05232) states a "hardness-aware tempered sigmoid based Binary Cross
Entropy" loss. The formulas of it below are ours.

A loss is a total over what somebody checked, divided by how much that is. Both are here on their
own, since a step may see its images in parts (micro-batches, processes): totals of parts add up,
means of parts do not. Shapes: B images, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def tempered_logits(cosines: Tensor, *, tau: Tensor | float, bias: Tensor | float) -> Tensor:
    """The argument of the sigmoid: s / tau + b (ours).

    Of the binary cross entropy of p = sigmoid(s / tau + b), a negative's dL/ds is proportional to
    p / tau: where s / tau + b << 0 the relative weights of negatives are exp(s / tau), so hard
    negatives dominate; where it is >> 0 every negative weighs the same.

    Args:
        cosines: s, any shape, float, within -1 to 1.
        tau: Temperature, greater than 0; a 0-d tensor where it is learnt.
        bias: b; 0 for the plain form, learnable for the SigLIP form.
    """
    return cosines / tau + bias


def sum_binary_cross_entropies(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Binary cross entropies, added up over known pairs; their mean is the loss.

    With p = sigmoid(z), and y the target: -y log p - (1 - y) log(1 - p). What z is makes the
    loss: s / tau + b the tempered sigmoid (ours), s alone the plain one on cosines, a linear
    layer's output the usual one of multi-label classification.

    Args:
        logits: z, [B, L], float.
        targets: 1 where the label holds, else 0, [B, L], bool or number. Ignored where unknown.
        known: False where nobody checked the label, [B, L], bool.

    Returns:
        A float scalar; 0 (with a gradient of 0) where nothing is known.
    """
    losses = functional.binary_cross_entropy_with_logits(
        logits, _safe_targets(logits, targets, known), reduction="none"
    )
    return losses.where(known, 0.0).sum()


def sum_asymmetric_losses(
    logits: Tensor,
    targets: Tensor,
    known: Tensor,
    *,
    gamma_negative: float,
    gamma_positive: float,
    margin: float,
) -> Tensor:
    """Asymmetric losses (arXiv 2009.14119, equations 4 to 7), added up over known pairs.

    With p = sigmoid(z) and p_m = max(p - m, 0)::

        -y (1 - p)^gamma+ log p - (1 - y) p_m^gamma- log(1 - p_m)

    Its paper adds up over batch and classes. Here the sum is divided by the known pairs, as for
    the binary cross entropy: with both gammas and the margin 0 the two are equal, and their rates
    and clipping mean the same.

    Args:
        logits: z, [B, L], float.
        targets: 1 where the label holds, else 0, [B, L], bool or number. Ignored where unknown.
        known: False where nobody checked the label, [B, L], bool.
        gamma_negative: At least 0; the paper's 4.
        gamma_positive: At least 0; the paper's 1.
        margin: m, 0 to below 1; the paper's 0.05.

    Returns:
        A float scalar; 0 (with a gradient of 0) where nothing is known.
    """
    log_p, log_not_p = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = -torch.exp(gamma_positive * log_not_p) * log_p
    # log(1 - p + m), capped at log 1: finite for any z, and exact where the margin is 0.
    log_margin = logits.new_tensor(margin).log()
    log_not_shifted = torch.logaddexp(log_not_p, log_margin).clamp(max=0.0)
    # A power below 1 has no slope at 0, and 0 * infinity is NaN.
    shifted = (log_p.exp() - margin).clamp(min=torch.finfo(logits.dtype).eps)
    negative = -(shifted**gamma_negative) * log_not_shifted
    y = _safe_targets(logits, targets, known)
    return (y * positive + (1 - y) * negative).where(known, 0.0).sum()


def sum_softmax_cross_entropies(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Softmax cross entropies over labels, added up over images with a known positive.

    Several labels share the target: 1 / k for each of an image's k labels, as in "Exploring the
    Limits of Weakly Supervised Pretraining" (arXiv 1805.00932, section 2.2)::

        -sum over known labels of (y / k) log(exp(z) / sum over known labels of exp(z))

    That unknown labels take no part in the softmax, and images without a known label none in the
    mean, is ours.

    Args:
        logits: z, [B, L], float.
        targets: 1 where the label holds, else 0, [B, L], bool or number. Ignored where unknown.
        known: False where nobody checked the label, [B, L], bool.

    Returns:
        A float scalar; 0 (with a gradient of 0) where no image has a known label.
    """
    y = _safe_targets(logits, targets, known)
    held = y.sum(dim=1, keepdim=True)
    # Not -inf: an image of which nothing is known would have no softmax at all.
    log_shares = logits.masked_fill(~known, torch.finfo(logits.dtype).min).log_softmax(dim=1)
    return -(y / held.clamp(min=1) * log_shares.where(known, 0.0)).sum()


def count_known(targets: Tensor, known: Tensor) -> Tensor:
    """Known pairs: what a total over pairs is divided by. A 0-d int64 tensor.

    Args:
        targets: [B, L]; not looked at.
        known: [B, L], bool.
    """
    del targets
    return known.sum()


def count_labelled(targets: Tensor, known: Tensor) -> Tensor:
    """Images with a known positive: what a total over images is divided by. 0-d, int64.

    Args:
        targets: [B, L], bool or number. Ignored where unknown.
        known: [B, L], bool.
    """
    return ((targets == 1) & known).any(dim=1).sum()


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


def _safe_targets(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Targets with 0 where unknown: there may be anything, NaN too, and 0 * NaN is NaN."""
    return targets.to(logits.dtype).where(known, 0.0)
