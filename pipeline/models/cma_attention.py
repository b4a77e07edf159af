"""The two attentions of CMA-CLIP, and the heads of its tasks.

The paper (arXiv 2112.03562) states: one transformer shared by all tasks over [T_CLS, T_1..T_n,
I_CLS, I_1..I_m], then for each task a keyless attention over the two class tokens and an MLP.
Layers, heads, norms and the formula of the keyless attention are ours.
Shapes: B images, S places of the sequence, D embedding, K labels of a task, N heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import ModalityAttention

_MLP_RATIO = 4


class AttentionLayer(nn.Module):
    """One layer: attention, then an MLP, each on a normed copy and added (ours).

    Args:
        width: D.
        heads: They divide D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width),
            nn.GELU(),
            nn.Linear(_MLP_RATIO * width, width),
        )

    def forward(self, x: Tensor, hidden: Tensor, *, places: Sequence[int] | None = None) -> Tensor:
        """What the layer makes of the sequence, or of some of its places.

        Args:
            x: [B, S, D].
            hidden: [B, S], bool: True where nobody may look.
            places: Places whose result is wanted; None: all.

        Returns:
            [B, S, D], or [B, len(places), D].
        """
        keys = self.attention_norm(x)
        queries = keys if places is None else keys[:, places]
        found, _ = self.attention(queries, keys, keys, key_padding_mask=hidden, need_weights=False)
        x = (x if places is None else x[:, places]) + found
        added: Tensor = x + self.mlp(self.mlp_norm(x))
        return added

    def weigh(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Who looks where: [B, N, S, S], each row's sum 1."""
        keys = self.attention_norm(x)
        _, weights = self.attention(
            keys, keys, keys, key_padding_mask=hidden, average_attn_weights=False
        )
        found: Tensor = weights
        return found


class SequenceAttention(nn.Module):
    """A transformer over the tokens of both modalities.

    Args:
        width: D.
        heads: They divide D.
        layers: At least 1.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AttentionLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, hidden: Tensor, places: Sequence[int]) -> Tensor:
        """What becomes of some places: [B, len(places), D].

        The last layer computes those places alone; nobody reads the others.

        Args:
            x: [B, S, D].
            hidden: [B, S], bool: True where nobody may look. No row is hidden as a whole.
            places: Which of the S.
        """
        *earlier, last = list[Any](self.layers)
        for layer in earlier:
            x = layer(x, hidden)
        normed: Tensor = self.norm(last(x, hidden, places=places))
        return normed

    def weigh(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Who looks where in every layer: [layers, B, N, S, S]. For explanations; slow."""
        weights = []
        for layer in list[Any](self.layers):
            weights.append(layer.weigh(x, hidden))
            x = layer(x, hidden)
        return torch.stack(weights)


class TaskHead(nn.Module):
    """A task's attention over the class tokens of text and image, and its classifier.

    Keyless attention (ours): e_m = w_m . h_m, weights = softmax(e_text, e_image), z = weighted sum.
    w starts at 0, so that no modality is trusted more before anything was learnt.

    Args:
        width: D.
        n_labels: K.
        attention: How the two class tokens are joined.
    """

    def __init__(self, width: int, n_labels: int, attention: ModalityAttention) -> None:
        super().__init__()
        self.attention = attention
        if attention == "keyless":
            self.keyless = nn.Parameter(torch.zeros(2, width))
        joined = 2 * width if attention == "concatenation" else width
        self.mlp = nn.Sequential(nn.Linear(joined, width), nn.GELU(), nn.Linear(width, n_labels))

    def forward(self, class_tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what each modality counted.

        Args:
            class_tokens: [B, 2, D], float32: text, image.
            present: [B, 2], bool: whether a row has the modality; at least one is True.

        Returns:
            logits [B, K], float32, and weights [B, 2], float32, of sum 1, exactly 0 for a missing
            modality. A concatenation weighs nothing: equal shares of what is there.
        """
        scores = class_tokens.new_zeros(present.shape)
        if self.attention == "keyless":
            scores = (class_tokens * self.keyless).sum(dim=-1)
        weights = scores.masked_fill(~present, -torch.inf).softmax(dim=-1)
        if self.attention == "concatenation":
            joined = (class_tokens * present[..., None]).flatten(1)
        else:
            joined = (weights[..., None] * class_tokens).sum(dim=1)
        logits: Tensor = self.mlp(joined)
        return logits, weights
