"""CMA-CLIP: image and text together, several tasks at once.

The paper (arXiv 2112.03562) states a sequence-wise attention over the tokens of text and image,
shared by all tasks, and for each task a modality-wise attention and an MLP. Sizes, norms, token
kinds and everything about missing modalities are ours; see :mod:`pipeline.models.cma_attention`.

A missing modality is no special case of the caller's: its tokens are hidden, its weight is 0, and
the prediction is that of the other one alone.
Shapes: B images, T tokens, P patches, D embedding, L labels, H W input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import CmaClipConfig
from pipeline.errors import ConfigurationError
from pipeline.models.cma_attention import SequenceAttention, TaskHead
from pipeline.models.tokens import (
    encode_image_tokens,
    encode_text_tokens,
    trim_padding,
    validate_image_tower,
)
from pipeline.models.tower_parameters import freeze_unused, image_parameters, text_parameters
from pipeline.taxonomy import Taxonomy

MODALITIES = ("text", "image")
"""Order of modality weights."""

# Kinds of tokens; each has a learnt vector: nothing else tells attention a word from a patch.
_TEXT_CLASS, _TEXT_TOKEN, _IMAGE_CLASS, _IMAGE_TOKEN = range(4)
_KIND_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class CmaOutput:
    """What the model makes of a batch.

    Attributes:
        logits: Of each task in the taxonomy's order, [B, labels of the task], float32.
        weights: [B, tasks, 2], float32: what text and image (``MODALITIES``) counted; of sum 1,
            exactly 0 where missing.
        image_embeddings: [B, D], float32, rows of length 1 (0 where there is no image): the image
            tower's own. None without images, and in training of a model that reads text alone.
    """

    logits: tuple[Tensor, ...]
    weights: Tensor
    image_embeddings: Tensor | None


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """The tokens of a batch: [T_CLS, T_1..T_n, I_CLS, I_1..I_m], or those of one modality.

    Attributes:
        x: [B, S, D].
        hidden: [B, S], bool: True for padding and missing modalities.
        class_places: Place of each present modality's class token, by its name.
        image_embeddings: As in ``CmaOutput``.
    """

    x: Tensor
    hidden: Tensor
    class_places: dict[str, int]
    image_embeddings: Tensor | None


class CmaClip(nn.Module):
    """Two towers, the attention between them, and a head for each task.

    Args:
        clip: An open_clip model whose image tower has patch tokens. Its logit scale and bias are
            not used; they are frozen.
        taxonomy: Tasks and the number of their labels, in this order.
        config: Which parts there are, and their sizes.

    Raises:
        ConfigurationError: If the image tower has no patch tokens, or heads do not divide D.
    """

    def __init__(self, clip: nn.Module, taxonomy: Taxonomy, config: CmaClipConfig) -> None:
        super().__init__()
        validate_image_tower(clip)
        width = _joint_width(clip)
        if config.sequence_attention and width % config.heads:
            raise ConfigurationError(
                "the heads of the sequence-wise attention must divide the width of the joint space",
                where="cma_clip.heads",
                expected=f"a divisor of {width}",
                got=config.heads,
            )
        self.config = config
        self.width = width
        self.task_kinds = tuple(task.kind for task in taxonomy.tasks)
        self.clip: Any = clip
        freeze_unused(clip)
        # Towers give vectors of any length; patches never were compared with anything.
        self.text_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        if config.sequence_attention:
            self.kinds = nn.Parameter(_KIND_STD * torch.randn(4, width))
            self.sequence = SequenceAttention(width, config.heads, config.layers)
        self.heads = nn.ModuleList(
            TaskHead(width, len(task.labels), config.modality_attention) for task in taxonomy.tasks
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.text_norm.weight.device

    @property
    def reads_text(self) -> bool:
        """Whether a text can change a prediction."""
        return self.config.modalities != "image"

    @property
    def reads_image(self) -> bool:
        """Whether an image can change a prediction."""
        return self.config.modalities != "text"

    def image_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the image tower."""
        return image_parameters(self.clip)

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the text tower."""
        return text_parameters(self.clip)

    def new_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of all that is not a tower."""
        return ((n, p) for n, p in self.named_parameters() if not n.startswith("clip."))

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Embed tokenized texts with the text tower alone: [N, T] int64 to [N, D], length 1."""
        return functional.normalize(self.clip.encode_text(tokens).float(), dim=-1)

    def trim_padding(self, tokens: Tensor) -> Tensor:
        """Texts cut to the longest of them, where no result changes. Call it on the CPU.

        Args:
            tokens: [B, T], int64, from the towers' tokenizer.
        """
        return trim_padding(self.clip, tokens)

    def forward(
        self,
        pixels: Tensor | None,
        tokens: Tensor | None,
        *,
        has_image: Tensor | None = None,
        has_text: Tensor | None = None,
    ) -> CmaOutput:
        """Logits and weights of a batch; rows do not depend on each other.

        Args:
            pixels: [B, 3, H, W], float, normalised; rows without an image hold any finite number.
                None: no row has an image.
            tokens: [B, T], int64, best cut by :meth:`trim_padding`; rows without a text hold any
                tokens. None: no row has a text.
            has_image: [B], bool. None: every row, if there are pixels.
            has_text: [B], bool. None: every row, if there are tokens.

        A row has one of the modalities the model reads at least; else its numbers are NaN. (A model
        that reads text alone reads an empty text as a text.)

        Raises:
            ValueError: If no modality is given that the model reads.
        """
        sequence, present = self.read(pixels, tokens, has_image=has_image, has_text=has_text)
        places = list(sequence.class_places.values())
        if self.config.sequence_attention:
            found = self.sequence(sequence.x, sequence.hidden, places)
        else:
            found = sequence.x[:, places]
        with torch.autocast(found.device.type, enabled=False):
            class_tokens = found.new_zeros(len(found), 2, found.shape[2], dtype=torch.float32)
            for row, name in enumerate(sequence.class_places):
                class_tokens[:, MODALITIES.index(name)] = found[:, row].float()
            outputs = [head(class_tokens, present) for head in self.heads]
        return CmaOutput(
            logits=tuple(logits for logits, _ in outputs),
            weights=torch.stack([weights for _, weights in outputs], dim=1),
            image_embeddings=sequence.image_embeddings,
        )

    def probabilities(self, output: CmaOutput) -> Tensor:
        """Scores of all labels, [B, L], float32: softmax or sigmoid, as the task's kind is."""
        parts = [
            logits.softmax(dim=-1) if kind == "single_label" else logits.sigmoid()
            for logits, kind in zip(output.logits, self.task_kinds, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def read(
        self,
        pixels: Tensor | None,
        tokens: Tensor | None,
        *,
        has_image: Tensor | None = None,
        has_text: Tensor | None = None,
    ) -> tuple[TokenSequence, Tensor]:
        """What the sequence-wise attention is given, and which modalities each row has.

        Arguments as :meth:`forward`'s.

        Returns:
            The sequence, and [B, 2] bool in the order of ``MODALITIES``.

        Raises:
            ValueError: If no modality is given that the model reads.
        """
        parts: list[Tensor] = []
        hidden: list[Tensor] = []
        places: dict[str, int] = {}
        embeddings = None
        if tokens is not None and self.reads_text:
            text = encode_text_tokens(self.clip, tokens)
            if has_text is None or not self.reads_image:
                has_text = _all_rows(text.pooled)
            places["text"] = 0
            parts += self._tagged(self.text_norm, text.pooled, text.tokens, _TEXT_CLASS)
            hidden += [~has_text[:, None], ~(text.is_token & has_text[:, None])]
        if pixels is not None and self.reads_image:
            image = encode_image_tokens(self.clip, pixels)
            has_image = _all_rows(image.pooled) if has_image is None else has_image
            embeddings = image.pooled
            places["image"] = sum(part.shape[1] for part in parts)
            parts += self._tagged(self.image_norm, image.pooled, image.patches, _IMAGE_CLASS)
            hidden += [~has_image[:, None], ~has_image[:, None].expand(image.patches.shape[:2])]
        elif pixels is not None and not self.training:
            embeddings = self.clip.encode_image(pixels)
        if not places:
            raise ValueError(f"the model reads {self.config.modalities}, and that was not given")
        x = torch.cat(parts, dim=1)
        absent = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        present = {"text": has_text, "image": has_image}
        sequence = TokenSequence(
            x=x,
            hidden=torch.cat(hidden, dim=1),
            class_places=places,
            image_embeddings=None if embeddings is None else _unit(embeddings, has_image),
        )
        rows = [absent if name not in places else present[name] for name in MODALITIES]
        return sequence, torch.stack([absent if one is None else one for one in rows], dim=1)

    def _tagged(
        self, norm: nn.Module, pooled: Tensor, tokens: Tensor, kind: int
    ) -> tuple[Tensor, Tensor]:
        """Class token [B, 1, D] and other tokens [B, n, D] of one modality, normed."""
        first, others = norm(pooled)[:, None], norm(tokens)
        if not self.config.sequence_attention:
            return first, others
        return first + self.kinds[kind], others + self.kinds[kind + 1]


def _joint_width(clip: Any) -> int:
    """D of an open_clip model: rows of what its text tower gives."""
    with torch.no_grad():
        device = next(clip.parameters()).device
        tokens = torch.zeros(1, clip.context_length, dtype=torch.int64, device=device)
        return int(clip.encode_text(tokens).shape[1])


def _all_rows(rows: Tensor) -> Tensor:
    return torch.ones(len(rows), dtype=torch.bool, device=rows.device)


def _unit(embeddings: Tensor, has_image: Tensor | None) -> Tensor:
    rows = functional.normalize(embeddings.float(), dim=-1)
    return rows if has_image is None else rows * has_image[:, None]
