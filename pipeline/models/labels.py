"""Label texts to label embeddings, as open_clip's zero-shot classifier makes them.

Any taxonomy works with any model: labels it never saw in training are embedded the same way.
Shapes: L labels, N texts (of all labels), T tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.taxonomy import Taxonomy

Tokenizer = Callable[[list[str]], Any]

_TEXTS_PER_PASS = 256


class TextEncoder(Protocol):
    """A model with a text tower."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """[N, T] int64 to [N, D] float32, rows of length 1."""
        ...


def tokenize_labels(tokenizer: Tokenizer, taxonomy: Taxonomy) -> tuple[Tensor, Tensor]:
    """Tokenize every text of every label.

    Args:
        tokenizer: The towers' tokenizer: texts to [N, T] int64.
        taxonomy: Labels in score order.

    Returns:
        tokens [N, T] int64, and owners [N] int64: the label's index, 0 to L - 1, of each text.
    """
    texts: list[str] = []
    owners: list[int] = []
    for index, (_, label) in enumerate(taxonomy.labels):
        texts += label.texts
        owners += [index] * len(label.texts)
    return tokenizer(texts), torch.tensor(owners)


def pool_texts(text_embeddings: Tensor, owners: Tensor) -> Tensor:
    """Mean of each label's text embeddings, normalised again. Differentiable.

    Args:
        text_embeddings: [N, D], float32, rows of length 1.
        owners: [N], int64, non-negative; every label from 0 to its maximum owns a text.

    Returns:
        g, [L, D], float32, rows of length 1.
    """
    n_labels = int(owners.max()) + 1
    owners = owners.to(text_embeddings.device)
    sums = text_embeddings.new_zeros(n_labels, text_embeddings.shape[1])
    # the sum's direction is the mean's
    return functional.normalize(sums.index_add(0, owners, text_embeddings), dim=-1)


@torch.no_grad()
def embed_texts(model: TextEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Embed texts one by one, without gradients.

    Args:
        model: In eval mode, on any device.
        tokenizer: The towers' tokenizer.
        texts: N texts; too long ones are cut by the tokenizer.

    Returns:
        [N, D], float32, on the CPU, rows of length 1.
    """
    if not texts:
        return _embed_tokens(model, tokenizer([""]))[:0]
    return _embed_tokens(model, tokenizer(list(texts)))


@torch.no_grad()
def embed_labels(model: TextEncoder, tokenizer: Tokenizer, taxonomy: Taxonomy) -> Tensor:
    """Embed a taxonomy's labels, without gradients.

    Equals ``open_clip.build_zero_shot_classifier`` (transposed, and with templates of each label).

    Training that moves the text tower uses ``tokenize_labels``, ``encode_texts`` and
    ``pool_texts`` instead, which keep gradients.

    Args:
        model: In eval mode, on any device.
        tokenizer: The towers' tokenizer.
        taxonomy: Labels in score order.

    Returns:
        g, [L, D], float32, on the CPU, rows of length 1.
    """
    tokens, owners = tokenize_labels(tokenizer, taxonomy)
    return pool_texts(_embed_tokens(model, tokens), owners)


def _embed_tokens(model: TextEncoder, tokens: Tensor) -> Tensor:
    device = model.device
    return torch.cat(
        [model.encode_texts(part.to(device)).cpu() for part in torch.split(tokens, _TEXTS_PER_PASS)]
    )
