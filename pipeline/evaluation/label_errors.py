"""Probably wrong labels of a labelled manifest, for people to look at.

A model has seen its training labels, so its own scores would defend them. Every image is therefore
scored by a linear model on the frozen image embeddings that was fitted on other images
(cross-validation), and cleanlab's confident learning (arXiv 1911.00068), label by label, says which
labels contradict those scores. Rows it is confident about come first, then by how little the scores
say for the given label. What was tried: docs/decisions/label-errors.md.

Shapes: N images, L labels, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from pipeline.config import LabelErrorsConfig
from pipeline.evaluation.operating_points import Bools, Floats

# Weight decay of the linear model on standardised embeddings; 30 to 300 found alike.
_DECAY = 100.0
# Confident learning needs to have seen both answers.
_LEAST_OF_EACH = 5
# Probabilities of 0 and 1 leave cleanlab nothing to rank by.
_LEAST_SCORE = 1e-6
_UNDECIDED = 0.5

Kind = Literal["missing", "wrong"]


@dataclass(frozen=True, kw_only=True)
class LabelError:
    """A label that is probably wrong, or missing.

    Attributes:
        image: Index of the image.
        label: Index of the label.
        given: What the manifest says.
        score: What images like it say, 0 to 1: share of them that have the label.
        confident: Found by confident learning; the others are only unlikely.
    """

    image: int
    label: int
    given: bool
    score: float
    confident: bool

    @property
    def kind(self) -> Kind:
        """``wrong``: given and should not be; ``missing``: should be given."""
        return "wrong" if self.given else "missing"


def find_label_errors(
    embeddings: npt.NDArray[np.float32], targets: Bools, known: Bools, config: LabelErrorsConfig
) -> list[LabelError]:
    """Find probably wrong labels, the most probable first.

    Args:
        embeddings: [N, D], of the frozen image tower.
        targets: [N, L], as given.
        known: [N, L]; pairs that are False are neither learnt from nor suspected.
        config: Folds and limit.

    Returns:
        Empty where there are fewer images than folds.
    """
    if len(embeddings) < config.folds:
        return []
    scores = predict_out_of_sample(embeddings, targets, known, config)
    confident = _find_confident(scores, targets, known)
    doubt = np.where(targets, 1.0 - scores, scores)
    suspected = known & (confident | (doubt > _UNDECIDED))
    images, labels = np.nonzero(suspected)
    order = np.lexsort((-doubt[suspected], ~confident[suspected]))[: config.max_rows]
    return [
        LabelError(
            image=int(image),
            label=int(label),
            given=bool(targets[image, label]),
            score=float(scores[image, label]),
            confident=bool(confident[image, label]),
        )
        for image, label in zip(images[order], labels[order], strict=True)
    ]


def predict_out_of_sample(
    embeddings: npt.NDArray[np.float32], targets: Bools, known: Bools, config: LabelErrorsConfig
) -> Floats:
    """Share of similar images that have each label, [N, L], 0 to 1, from other folds only.

    One least-squares fit gives all labels of a fold at once; a pair that nobody checked stands
    there with its label's frequency, which pulls nowhere.

    Args:
        embeddings: [N, D], N at least ``config.folds``.
        targets: [N, L].
        known: [N, L].
        config: Folds and seed.
    """
    scores = np.zeros(targets.shape)
    folds = KFold(config.folds, shuffle=True, random_state=config.seed)
    for fitted, held_out in folds.split(embeddings):
        mean = embeddings[fitted].mean(axis=0, dtype=np.float64)
        spread = embeddings[fitted].std(axis=0, dtype=np.float64)
        spread[spread == 0] = 1.0
        given = targets[fitted] & known[fitted]
        frequencies = given.sum(axis=0) / np.maximum(known[fitted].sum(axis=0), 1)
        model = Ridge(alpha=_DECAY).fit(
            (embeddings[fitted] - mean) / spread, np.where(known[fitted], given, frequencies)
        )
        predicted = model.predict((embeddings[held_out] - mean) / spread)
        scores[held_out] = predicted.reshape(len(held_out), -1)
    return np.clip(scores, 0.0, 1.0)


def _find_confident(scores: Floats, targets: Bools, known: Bools) -> Bools:
    """[N, L]: confident learning counts the pair among those whose label is another."""
    found = np.zeros(targets.shape, bool)
    for column in range(targets.shape[1]):
        rows = np.flatnonzero(known[:, column])
        given = targets[rows, column]
        if min(given.sum(), (~given).sum()) < _LEAST_OF_EACH:
            continue
        positive = np.clip(scores[rows, column], _LEAST_SCORE, 1 - _LEAST_SCORE)
        found[rows, column] = find_label_issues(
            labels=given.astype(int),
            pred_probs=np.column_stack([1 - positive, positive]),
            filter_by="confident_learning",
            n_jobs=1,
        )
    return found
