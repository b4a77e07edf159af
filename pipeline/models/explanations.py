"""Why CMA-CLIP says what it says: the word it leans on, and the patches that word looked at.

Attention is followed through the layers as attention rollout does (arXiv 2005.00928): each layer's
mean over its heads, half of it replaced by what a place keeps of itself, multiplied. Which word is
shown, and up to which layer, is ours: the word that the two class tokens draw most from, each as
far as its modality counts; and what it had drawn from the patches when the class tokens read it,
before the last layer. Attention says where a model looked, not what it would do otherwise.

Shapes: B images, T tokens, P patches, S places of the sequence, K tasks, H W input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.models.cma_clip import MODALITIES, CmaClip
from pipeline.models.labels import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What one prediction rested on.

    Attributes:
        weights: [K, 2], what text and image (``MODALITIES``) counted in each task.
        word: The token that counted most, as text; None without a text or sequence-wise attention.
        heat: [rows, columns] of the patches, 0 to 1: how much the word drew from each. None where
            there is no word.
    """

    weights: npt.NDArray[np.float32]
    word: str | None
    heat: npt.NDArray[np.float32] | None


@torch.inference_mode()
def explain(
    model: CmaClip, tokenizer: Tokenizer, planes: Tensor, tokens: Tensor, has_text: Tensor
) -> list[Explanation]:
    """Explain a batch of images with their texts.

    Args:
        model: In eval mode; it reads images and texts.
        tokenizer: Its text tower's.
        planes: [B, 3, H, W], float, normalised, on the model's device.
        tokens: [B, T], int64, there too.
        has_text: [B] bool, there too.
    """
    weights = model(planes, tokens, has_text=has_text).weights
    words: list[str | None] = [None] * len(planes)
    heats: list[npt.NDArray[np.float32] | None] = [None] * len(planes)
    if model.config.sequence_attention:
        special = _special_tokens(tokenizer, tokens.device)
        sequence, _ = model.read(planes, tokens, has_text=has_text)
        layers = model.sequence.weigh(sequence.x, sequence.hidden).mean(dim=2)  # [layers, B, S, S]
        places, image_class = slice(1, 1 + tokens.shape[1]), sequence.class_places["image"]
        from_class = _follow(layers)[:, [sequence.class_places[name] for name in MODALITIES]]
        drawn = (weights.mean(dim=1)[..., None] * from_class).sum(dim=1)[:, places]  # [B, T]
        is_word = ~sequence.hidden[:, places] & ~torch.isin(tokens, special)
        best = drawn.masked_fill(~is_word, -1.0).argmax(dim=1)
        # the rows of words in the last layer are read by nobody
        before = _follow(layers[:-1] if len(layers) > 1 else layers)
        for row in torch.nonzero(is_word.any(dim=1)).flatten().tolist():
            place = int(best[row])
            words[row] = _name_token(tokenizer, int(tokens[row, place]))
            to_patches = before[row, 1 + place, image_class + 1 :]
            heats[row] = _make_heat(to_patches, planes.shape[2] / planes.shape[3])
    return [
        Explanation(weights=own.cpu().numpy(), word=word, heat=heat)
        for own, word, heat in zip(weights, words, heats, strict=True)
    ]


def _follow(layers: Tensor) -> Tensor:
    """What each place holds of every place's input, [B, S, S], of [layers, B, S, S]."""
    own = torch.eye(layers.shape[-1], device=layers.device)
    followed = own.expand(layers.shape[1:])
    for layer in layers:
        followed = (0.5 * layer + 0.5 * own) @ followed
    return followed


def _special_tokens(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """Tokens that every text has: start, end, padding."""
    empty: Tensor = tokenizer([""])
    return torch.tensor(sorted(set(empty.flatten().tolist())), device=device)


def _name_token(tokenizer: Tokenizer, token: int) -> str:
    tool: Any = getattr(tokenizer, "tokenizer", tokenizer)
    name: str = tool.decode([token])
    return name.strip()


def _make_heat(attention: Tensor, height_to_width: float) -> npt.NDArray[np.float32]:
    """[P] as [rows, columns], its least at 0 and its most at 1."""
    rows = max(1, round((len(attention) * height_to_width) ** 0.5))
    heat = attention.reshape(rows, -1).float().cpu().numpy()
    span = float(heat.max() - heat.min())
    return np.asarray((heat - heat.min()) / (span or 1.0), np.float32)
