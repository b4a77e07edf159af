"""MuMIC behind the predictor's interface: images alone, scores from the stored vector.

Shapes: B images, L labels, N texts, D embedding, H W input.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.config import Precision
from pipeline.errors import ModelError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.labels import Tokenizer
from pipeline.models.mumic import MuMIC
from pipeline.models.predictor import Prediction, Predictor
from pipeline.models.scoring import FloatArray, score
from pipeline.taxonomy import Taxonomy


class MumicPredictor(Predictor):
    """MuMIC on one device in one precision.

    The image tower computes in ``precision``; texts, normalisation and scores are float32 always.

    Args:
        mumic: In eval mode, float32, on its device. Its image tower is arranged for
            inference in place, its weights converted where the precision is lower.
        tokenizer: The text tower's.
        preprocessing: Mean, std and size of the input.
        taxonomy: Labels in score order.
        label_embeddings: g, [L, D], float32, rows of length 1.
        tau: Temperature of the scores, the bundle's to the last bit.
        bias: Bias of the scores.
        version: The model's version.
        precision: Arithmetic of the image tower.
    """

    scores_from_embedding = True

    def __init__(
        self,
        mumic: MuMIC,
        *,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        taxonomy: Taxonomy,
        label_embeddings: FloatArray,
        tau: float,
        bias: float,
        version: str,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(
            mumic,
            tokenizer=tokenizer,
            preprocessing=preprocessing,
            taxonomy=taxonomy,
            embedding_size=label_embeddings.shape[1],
            version=version,
            precision=precision,
        )
        self.tau = tau
        self.bias = bias
        self.label_embeddings = label_embeddings
        self._mumic = mumic
        self._prepare_tower(mumic.clip.visual, mumic.clip.visual, class_token_only=True)

    def score(self, embeddings: FloatArray) -> FloatArray:
        """Scores of stored embeddings, [B, D] to [B, L], both float32."""
        return self.score_zero_shot(embeddings, self.label_embeddings)

    def predict_from_embeddings(self, embeddings: FloatArray) -> Prediction:
        """What the model makes of images whose embeddings are known, [B, D]."""
        return Prediction(embeddings=embeddings, scores=self.score(embeddings))

    def score_zero_shot(self, embeddings: FloatArray, texts: FloatArray) -> FloatArray:
        """Scores of stored embeddings against embedded texts, [B, D] and [N, D] to [B, N]."""
        return score(embeddings, texts, self.tau, self.bias)

    def _read_texts(self, texts: Sequence[str | None] | None, images: bool, n_rows: int) -> None:
        del texts
        if not images:
            raise ModelError(
                "MuMIC reads images alone", where=self.model_version, got=f"{n_rows} texts"
            )

    def _run(self, planes: Tensor | None, given: None) -> tuple[Tensor, ...]:
        return (self._mumic.encode_images(planes),) if planes is not None else ()

    def _finish(self, outputs: list[FloatArray], given: None, n_rows: int) -> Prediction:
        (rows,) = outputs
        self._validate_embeddings(rows, n_rows)
        return self.predict_from_embeddings(rows)
