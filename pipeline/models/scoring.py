"""Scores from stored vectors: the one place where a MuMIC tag's score is computed. NumPy only.

Tagging an image and scoring it again from its stored embedding both end here, so they agree. The
formula, p = sigmoid(s / tau + b), is ours; see :mod:`pipeline.models.mumic`.
Shapes: B images, L labels, D embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def score(
    embeddings: FloatArray, label_embeddings: FloatArray, tau: float, bias: float
) -> FloatArray:
    """Probability of each label for each image.

    Sums are kept in float64: a float32 product rounds differently for other batch sizes and
    libraries, and 1 / tau makes that a hundred times larger.

    Args:
        embeddings: f, [B, D], float32, rows of length 1, as they are stored.
        label_embeddings: g, [L, D], float32, rows of length 1.
        tau: Temperature, greater than 0.
        bias: Bias of the sigmoid.

    Returns:
        [B, L], float32, 0 to 1.
    """
    cosines = embeddings.astype(np.float64) @ label_embeddings.astype(np.float64).T
    logits = cosines / tau + bias
    small = np.exp(-np.abs(logits))  # never overflows
    scores = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return scores.astype(np.float32)
