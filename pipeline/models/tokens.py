"""Tokens out of the towers of an open_clip model, in the joint space.

open_clip's ``encode_image`` and ``encode_text`` give one vector each; models that let patches and
words attend to each other need all of them. What is done to the tokens is ours: the tower's final
norm, then the tower's projection, as the tower does with its pooled vector.

Works with open_clip's own vision transformers and timm's, and with open_clip's text transformers
and Hugging Face's. An image tower without patch tokens (ResNets, attentional poolers) is refused.
Shapes: B images or texts, P patches, T tokens, D embedding, H W input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer, text_global_pool
from torch import Tensor, nn

from pipeline.errors import ConfigurationError

# What a timm trunk has where its output are patch tokens that a norm and a head can take.
_TIMM_TRANSFORMER = ("num_prefix_tokens", "fc_norm", "head", "forward_intermediates")


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """What an image tower makes of images.

    Attributes:
        pooled: [B, D], as ``encode_image`` gives it: I_CLS.
        patches: [B, P, D], row by row of the image.
    """

    pooled: Tensor
    patches: Tensor


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """What a text tower makes of texts.

    Attributes:
        pooled: [B, D], as ``encode_text`` gives it: T_CLS, the end token's vector in CLIP.
        tokens: [B, T, D], at the places of the tokenizer.
        is_token: [B, T], bool: False for padding, and for the end token that is ``pooled``.
    """

    pooled: Tensor
    tokens: Tensor
    is_token: Tensor


def validate_image_tower(clip: nn.Module) -> None:
    """Refuse a model whose image tower has no patch tokens.

    Raises:
        ConfigurationError: With the kind of tower.
    """
    visual: Any = clip.get_submodule("visual")
    if isinstance(visual, VisionTransformer):
        has_patches = visual.attn_pool is None
    else:
        trunk = getattr(visual, "trunk", None)
        has_patches = all(hasattr(trunk, name) for name in _TIMM_TRANSFORMER)
    if not has_patches:
        raise ConfigurationError(
            "this image tower has no patch tokens",
            where="towers.architecture",
            expected="a vision transformer without an attentional pooler, such as ViT-B-32",
            got=type(getattr(visual, "trunk", visual)).__name__,
        )


def encode_image_tokens(clip: nn.Module, pixels: Tensor) -> ImageTokens:
    """Patch tokens and pooled vectors of images.

    Args:
        clip: An open_clip model that :func:`validate_image_tower` accepts.
        pixels: [B, 3, H, W], float, normalised with the preprocessing's mean and std.
    """
    visual: Any = clip.get_submodule("visual")
    found = visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, output_fmt="NLC"
    )
    patches = found["image_intermediates"][-1]
    if isinstance(visual, TimmModel):
        trunk: Any = visual.trunk
        patches = visual.head(trunk.head(trunk.fc_norm(patches)))
    elif visual.proj is not None:
        patches = patches @ visual.proj
    return ImageTokens(pooled=found["image_features"], patches=patches)


def encode_text_tokens(clip: nn.Module, tokens: Tensor) -> TextTokens:
    """Token vectors and pooled vectors of texts.

    Args:
        clip: An open_clip model.
        tokens: [B, T], int64, from the towers' tokenizer, or cut by :func:`trim_padding`.
    """
    tower = _text_tower(clip)
    if isinstance(tower, HFTextEncoder):
        return _encode_hugging_face(tower, tokens)
    if _ends_at_end_token(tower):
        ends = _end_places(tower, tokens)
        is_token = torch.arange(tokens.shape[1], device=tokens.device) < ends[:, None]
    else:
        is_token = _before_padding(tokens)
    if getattr(tower, "use_pad_mask", False) or getattr(tower, "cls_emb", None) is not None:
        # masks of its own beside the causal one
        found = tower.forward_intermediates(tokens, indices=1, normalize_intermediates=True)
        vectors = _project_text(tower, found["text_intermediates"][-1])
        return TextTokens(pooled=found["text_features"], tokens=vectors, is_token=is_token)
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    # as encode_text, which takes texts of the full length only
    hidden = tower.token_embedding(tokens).to(dtype)
    hidden = hidden + tower.positional_embedding[:length].to(dtype)
    mask = tower.attn_mask
    hidden = tower.transformer(hidden, attn_mask=None if mask is None else mask[:length, :length])
    vectors = _project_text(tower, tower.ln_final(hidden))
    pool, eos_id = _pooling(tower)
    pooled = text_global_pool(vectors, tokens, pool, eos_token_id=eos_id)
    return TextTokens(pooled=pooled, tokens=vectors, is_token=is_token)


def trim_padding(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Cut texts to the longest of them, where that changes no vector. Call it on the CPU.

    It changes none where later places cannot be seen (causal text towers) or are masked (Hugging
    Face's). Towers that read their padding, such as SigLIP's, get their texts back whole.

    Args:
        clip: An open_clip model.
        tokens: [B, T], int64, from the towers' tokenizer.

    Returns:
        [B, T'], T' at most T.
    """
    tower = _text_tower(clip)
    if isinstance(tower, HFTextEncoder):
        used = (tokens != tower.config.pad_token_id).any(dim=0).nonzero()
        return tokens[:, : int(used.max()) + 1] if len(used) else tokens[:, :1]
    if tower.attn_mask is None or not _ends_at_end_token(tower):
        return tokens
    return tokens[:, : int(_end_places(tower, tokens).max()) + 1]


def _text_tower(clip: Any) -> Any:
    """The module that holds the text transformer: ``CLIP`` itself, or its part ``text``."""
    return getattr(clip, "text", clip)


def _pooling(tower: Any) -> tuple[str, Any]:
    """How the text is pooled, and the end token's id, which matters for one way of it."""
    pool: str = getattr(tower, "text_pool_type", None) or tower.pool_type
    eos_id = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    return pool, eos_id


def _ends_at_end_token(tower: Any) -> bool:
    """Whether the text's vector is that of its end token, with nothing but padding behind."""
    return _pooling(tower)[0] in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None


def _end_places(tower: Any, tokens: Tensor) -> Tensor:
    """Where each text's end token is, [B] int64, as open_clip finds it."""
    pool, eos_id = _pooling(tower)
    if pool == "argmax":
        return tokens.argmax(dim=-1)
    return torch.eq(tokens, eos_id).int().argmax(dim=-1)


def _before_padding(tokens: Tensor) -> Tensor:
    """Which places come before the repeated last token, [B, T] bool; its first place counts.

    For towers that do not say what padding is. SigLIP's is its end token, so the first is real.
    """
    differs = (tokens != tokens[:, -1:]).int()
    differs_later = differs.flip(1).cumsum(1).flip(1) > 0
    first = torch.ones_like(differs_later[:, :1])
    return torch.cat([first, differs_later[:, :-1]], dim=1)


def _project_text(tower: Any, vectors: Tensor) -> Tensor:
    projection = tower.text_projection
    if projection is None:
        return vectors
    projected: Tensor = (
        projection(vectors) if isinstance(projection, nn.Linear) else vectors @ projection
    )
    return projected


def _encode_hugging_face(tower: Any, tokens: Tensor) -> TextTokens:
    is_token = tokens != tower.config.pad_token_id
    mask = is_token.long()
    out = tower.transformer(input_ids=tokens, attention_mask=mask)
    return TextTokens(
        pooled=tower.proj(tower.pooler(out, mask)),
        tokens=tower.proj(out.last_hidden_state),
        is_token=is_token,
    )
