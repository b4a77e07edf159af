"""CMA-CLIP behind the predictor's interface: images and texts, or one of them.

Shapes: B rows, L labels, T tokens, D embedding, H W input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Precision
from pipeline.errors import ModelError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.cma_clip import MODALITIES, CmaClip
from pipeline.models.labels import Tokenizer
from pipeline.models.predictor import Prediction, Predictor, Source
from pipeline.models.scoring import FloatArray
from pipeline.models.texts import TokenizedTexts, tokenize_texts
from pipeline.taxonomy import Taxonomy


class CmaClipPredictor(Predictor):
    """CMA-CLIP on one device in one precision.

    Both towers and the sequence-wise attention compute in ``precision`` (of int8 the image tower
    alone); the tasks' attentions, heads and scores are float32 always.

    Args:
        model: In eval mode, float32, on its device. Its towers are arranged for inference
            in place, their weights converted where the precision is lower.
        tokenizer: The text tower's.
        preprocessing: Mean, std and size of the input.
        taxonomy: Labels in score order.
        embedding_size: D.
        version: The model's version.
        precision: Arithmetic of towers and sequence-wise attention.
    """

    def __init__(
        self,
        model: CmaClip,
        *,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        taxonomy: Taxonomy,
        embedding_size: int,
        version: str,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(
            model,
            tokenizer=tokenizer,
            preprocessing=preprocessing,
            taxonomy=taxonomy,
            embedding_size=embedding_size,
            version=version,
            precision=precision,
        )
        self.reads_text = model.reads_text
        self._model = model
        self._prepare_tower(model.clip, model.clip.visual, class_token_only=False)

    def embed_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed any texts with the text tower: N texts to [N, D], float32, rows of length 1."""
        with self._autocast():
            return super().embed_texts(texts)

    def _read_texts(
        self, texts: Sequence[str | None] | None, images: bool, n_rows: int
    ) -> TokenizedTexts | None:
        read = (
            tokenize_texts(self._tokenizer, texts or [None] * n_rows) if self.reads_text else None
        )
        if not images and (read is None or not n_rows or not read.has_text.all()):
            raise ModelError(
                "a row has neither an image nor a text to read",
                where=self.model_version,
                expected="pixels, or a text in every row",
                got=f"{n_rows} rows without pixels",
            )
        return read

    def _run(self, planes: Tensor | None, given: TokenizedTexts | None) -> tuple[Tensor, ...]:
        tokens = has_text = None
        # a model without images reads empty texts too: it has nothing else
        if given is not None and (given.has_text.any() or not self._model.reads_image):
            tokens = self._to_device(self._model.trim_padding(given.tokens))
            has_text = self._to_device(given.has_text)
        output = self._model(planes, tokens, has_text=has_text)
        outputs = (self._model.probabilities(output), output.weights)
        return outputs if planes is None else (*outputs, output.image_embeddings)

    def _finish(
        self, outputs: list[FloatArray], given: TokenizedTexts | None, n_rows: int
    ) -> Prediction:
        scores, weights, *embeddings = outputs
        if embeddings:
            self._validate_embeddings(embeddings[0], n_rows)
        expected = (n_rows, len(self.taxonomy.labels))
        if scores.shape != expected or not np.isfinite(scores).all():
            raise ModelError(
                "the model gave scores that are not numbers, or not one for each label",
                where=self.model_version,
                expected=list(expected),
                got=f"{list(scores.shape)}, {int((~np.isfinite(scores)).sum())} of them no numbers",
                todo="use precision fp32 or bf16, or check the weights",
            )
        ids = [task.id for task in self.taxonomy.tasks]
        has_text = given.has_text if given is not None else torch.zeros(n_rows, dtype=torch.bool)
        return Prediction(
            scores=scores,
            embeddings=embeddings[0] if embeddings else None,
            sources=[self._source(bool(embeddings), text) for text in has_text.tolist()],
            modality_weights=[
                {
                    task: dict(zip(MODALITIES, shares, strict=True))
                    for task, shares in zip(ids, row, strict=True)
                }
                for row in weights.tolist()
            ],
            text_cut=None
            if given is None
            else [
                cut if text else None
                for cut, text in zip(given.was_cut.tolist(), has_text.tolist(), strict=True)
            ],
        )

    def _source(self, has_image: bool, has_text: bool) -> Source:
        if not self._model.reads_image:
            return "text"
        if has_text:
            return "both" if has_image else "text"
        return "image"
