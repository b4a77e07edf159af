"""Blocks of open_clip's transformers, arranged for inference: the same numbers, sooner.

Queries, keys and values come from one linear layer instead of PyTorch's ``MultiheadAttention``,
whose packed weights no other arithmetic can take the place of. Where only the class token of a
vision transformer is read, its last block computes that token alone: its other tokens are keys and
values there, and nothing else.

Shapes: B images or texts, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

# Dimensions of a mask of [B * heads, T, T].
_OF_EACH_HEAD = 3


class InferenceBlock(nn.Module):
    """What an open_clip block computes.

    Args:
        block: In eval mode; its weights are shared, not copied.
        first_only: Compute the first token alone.
    """

    def __init__(self, block: ResidualAttentionBlock, *, first_only: bool = False) -> None:
        super().__init__()
        attention: nn.MultiheadAttention = block.attn
        self.heads = attention.num_heads
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.ls_1, self.ls_2 = block.ls_1, block.ls_2
        self.mlp = block.mlp
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        width = attention.embed_dim
        self.query = _linear(weight[:width], bias[:width]) if first_only else None
        first = width if first_only else 0
        self.inputs = _linear(weight[first:], bias[first:])
        self.output = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """[B, T, D] to [B, T, D], or to [B, 1, D].

        The mask, [T, T] or [B * heads, T, T], is added to what attention weighs.
        """
        given = self.ln_1(x)
        if self.query is None:
            query, key, value = self.inputs(given).chunk(3, dim=-1)
        else:
            x = x[:, :1]
            query = self.query(given[:, :1])
            key, value = self.inputs(given).chunk(2, dim=-1)
        mask = None if attn_mask is None else attn_mask.to(query.dtype)
        if mask is not None and mask.dim() == _OF_EACH_HEAD:
            mask = mask.view(-1, self.heads, *mask.shape[1:])
        seen = functional.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), attn_mask=mask
        )
        x = x + self.ls_1(self.output(seen.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return out

    def get_weight_dtype(self) -> torch.dtype:
        """What open_clip casts inputs to."""
        # of layers in eight bits: what they take and give
        weight = getattr(self.output, "weight", None)
        return weight.dtype if isinstance(weight, Tensor) else torch.float32

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, heads, T, D / heads]."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


def arrange_blocks(tower: nn.Module, *, class_token_only: bool) -> None:
    """Arrange the blocks of every transformer of open_clip's in a tower, in place.

    Towers of other libraries, and blocks of unusual kinds, stay as they are.

    Args:
        tower: In eval mode. It is not for training afterwards, nor has it its state's names.
        class_token_only: Nobody reads the patch tokens of a vision transformer.
    """
    last = None
    if class_token_only and isinstance(tower, VisionTransformer) and _reads_class_token(tower):
        last = tower.transformer.resblocks[-1]
    modules: list[Any] = list(tower.modules())
    for module in modules:
        if type(module) is not Transformer:
            continue
        for number, block in enumerate(module.resblocks):
            if _is_usual(block):
                module.resblocks[number] = InferenceBlock(block, first_only=block is last)


def _is_usual(block: Any) -> bool:
    return (
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and block.attn.in_proj_weight is not None
        and block.attn.in_proj_bias is not None
        and block.attn.batch_first
    )


def _reads_class_token(tower: Any) -> bool:
    return tower.attn_pool is None and tower.pool_type == "tok" and not tower.output_tokens


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
