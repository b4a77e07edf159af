"""A linear classifier on the image tower, for comparison with label texts.

A bundle does not hold one, and should not: its labels are rows of a matrix, not texts. Another
taxonomy, a label nobody trained, and scoring again from a stored unit vector all need the texts.
Shapes: B images, L labels, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """z = W h + c over the image tower's output h as it comes, not brought to length 1.

    So its scale is free: no temperature is needed. W starts at 0 (logistic regression needs no
    random start, and first predictions are the bias's alone).

    Args:
        embedding_size: D.
        n_labels: L.
        has_bias: Whether there is a c, one for each label.
    """

    def __init__(self, embedding_size: int, n_labels: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_size, n_labels, bias=has_bias)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def start_at_prior(self, prevalence: Tensor) -> None:
        """Let first predictions equal the labels' prevalence.

        Args:
            prevalence: Share of positives of each label, [L]. Kept within 1e-6 of 0 and 1.
        """
        self.linear.bias.copy_(torch.logit(prevalence, eps=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Logits z, [B, L] float32, of features h, [B, D] float32."""
        logits: Tensor = self.linear(features)
        return logits
