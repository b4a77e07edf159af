"""Texts of a manifest, of any language and length, to the tokens of a text tower.

Training and tagging read texts through here, so that both see the same tokens.
Shapes: B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.models.labels import Tokenizer

# Far more than a token stands for. Byte-pair tokenizers take the square of a word's length: a
# title of a megabyte without a space would hold its worker for hours.
_MAX_CHARS_PER_TOKEN = 16
# open_clip's tokenizer keeps every word it ever saw; a catalogue has millions.
_MAX_CACHED_WORDS = 200_000


@dataclass(frozen=True, kw_only=True)
class TokenizedTexts:
    """Texts as a text tower takes them.

    Attributes:
        tokens: [B, T], int64; those of an empty text for rows without one.
        has_text: [B], bool: whether there is anything to read.
        was_cut: [B], bool: whether the text is longer than the tokenizer's context.
    """

    tokens: Tensor
    has_text: Tensor
    was_cut: Tensor


def has_text(text: str | None) -> bool:
    """Whether there is anything to read: one character that is printed and no space."""
    return text is not None and any(one.isprintable() and not one.isspace() for one in text)


def tokenize_texts(tokenizer: Tokenizer, texts: Sequence[str | None]) -> TokenizedTexts:
    """Tokenize texts; whatever a text holds, it gives tokens.

    Args:
        tokenizer: The towers' own. It cuts as its model was trained to be cut for.
        texts: B of them; None, blank and unprintable ones are no texts.
    """
    tool: Any = tokenizer
    context_length: int = tool.context_length
    most = _MAX_CHARS_PER_TOKEN * context_length
    wanted = [_clean(text) if text is not None and has_text(text) else "" for text in texts]
    given = [text[:most] for text in wanted]
    tokens: Tensor = tool([*given, ""])  # the last one shows what padding is
    tokens, empty = tokens[:-1], tokens[-1]
    was_cut = torch.tensor([len(text) > most for text in wanted])
    if (filled := (tokens[:, -2] != empty[-2]).nonzero().flatten()).numel():
        # with one place more, a text that fits gives the same tokens and one more padding
        longer = tool([given[row] for row in filled.tolist()], context_length=context_length + 1)
        was_cut[filled] |= (longer[:, :context_length] != tokens[filled]).any(dim=1)
    _limit_cache(tool)
    return TokenizedTexts(
        tokens=tokens,
        has_text=torch.tensor([bool(text) for text in wanted]),
        was_cut=was_cut,
    )


def _clean(text: str) -> str:
    """One space between words; half of a surrogate pair, which has no UTF-8, becomes a ``?``."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _limit_cache(tokenizer: Any) -> None:
    words: dict[str, str] | None = getattr(tokenizer, "cache", None)
    if words is not None and len(words) > _MAX_CACHED_WORDS:
        special = {word: value for word, value in words.items() if word == value}
        words.clear()
        words.update(special)
