"""One training of an ablation, from seed to figures on the clean test images.

Runs in processes of one thread each, side by side: two of them use two cores better than one
training with two threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from trials.images import load_sets
from trials.intervals import CONFIDENCE

from loss_ablation.grid import SOFTMAX, Variant
from loss_ablation.settings import Settings
from pipeline.config import TowersConfig
from pipeline.errors import ModelError
from pipeline.evaluation.metrics import make_ranking_metrics
from pipeline.evaluation.resampling import draw_weights, rank_labels, rank_pooled
from pipeline.models.labels import tokenize_labels
from pipeline.models.towers import load_towers
from pipeline.taxonomy import read_taxonomy
from pipeline.training.course import make_mumic_course
from pipeline.training.loop import train
from pipeline.training.objective import make_mumic
from pipeline.training.pixels import PixelSet
from pipeline.training.validation import score_with_network

FIGURES = ("gap", "gap_at_10", "macro_map")
_K = 10
_SCORING_BATCH = 128
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training that an ablation needs.

    Attributes:
        stage: What it is for.
        variant: What is trained.
        seed: Of everything random: first weights, order, cuts.
        epochs: Passes over the training images.
    """

    stage: Literal["screening", "finals"]
    variant: Variant
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """Of its result's file."""
        return f"{self.stage}-{self.variant.name}-{self.seed}"

    @property
    def cost(self) -> float:
        """Passes, weighed by what they take; ours, rounded from a profile."""
        return self.epochs * (0.4 if self.variant.parts == "neither" else 1.0)


def run_training(
    training: Training, settings: Settings, folder: Path, device: str
) -> dict[str, Any]:
    """Train, and measure on validation and test images.

    Args:
        training: What to train.
        settings: Of the ablation.
        folder: Of its data.
        device: A torch device.

    Returns:
        stage, variant, family, parts, tau, bias, seed, epochs, cost, seconds, and either ``failed``
        or: validation and test (each figure; of the test also low and high of its bootstrap
        interval over images), best_epoch, images_per_s, ends_at (tau and bias), scored_by.
    """
    started = time.monotonic()
    variant = training.variant
    told = {
        "stage": training.stage,
        "variant": variant.name,
        "family": variant.family,
        "parts": variant.parts,
        "tau": variant.tau,
        "bias": variant.bias,
        "seed": training.seed,
        "epochs": training.epochs,
        "cost": training.cost,
    }
    try:
        found = _train(training, settings, folder, torch.device(device))
    except ModelError as error:  # diverging is something a loss can do, and a result
        found = {"failed": str(error)}
    return told | found | {"seconds": round(time.monotonic() - started, 1)}


def _train(
    training: Training, settings: Settings, folder: Path, device: torch.device
) -> dict[str, Any]:
    sets = load_sets(folder)
    torch.manual_seed(training.seed)
    towers = load_towers(
        TowersConfig(architecture=settings.architecture, pretrained=settings.pretrained)
    )
    variant = training.variant
    tokens, owners = tokenize_labels(towers.tokenizer, read_taxonomy(folder / "taxonomy.yaml"))
    optimizer = variant.make_optimizer(
        epochs=training.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=training.seed,
    )
    trained = train(
        make_mumic_course(
            make_mumic(towers.model, variant.loss),
            tokens=tokens,
            owners=owners,
            loss=variant.loss,
            optimizer=optimizer,
        ),
        training=sets["train"],
        validation=sets["validation"],
        preprocessing=towers.preprocessing,
        optimizer=optimizer,
        device=device,
    )
    network = trained.network.to(device)
    logits = {
        split: score_with_network(
            network,
            sets[split],
            preprocessing=towers.preprocessing,
            batch_size=_SCORING_BATCH,
        )
        for split in ("validation", "test")
    }
    scored_by, scores = _choose_scores(variant, logits, sets["validation"])
    test, validation = sets["test"], sets["validation"]
    return {
        "validation": _name_figures(scores["validation"], validation),
        "test": measure_with_intervals(
            scores["test"], test.targets, test.known, resamples=settings.resamples
        ),
        "scored_by": scored_by,
        "best_epoch": trained.best + 1,
        "images_per_s": round(trained.images_per_s, 1),
        "ends_at": {
            "tau": round(float(trained.network.mumic.tau.detach()), 4),
            "bias": round(float(trained.network.mumic.bias.detach()), 3),
        },
    }


def _choose_scores(
    variant: Variant, logits: dict[str, Floats], validation: PixelSet
) -> tuple[str, dict[str, Floats]]:
    """Logits, as the product ranks by them; of a softmax its shares where validation says so.

    A softmax says how labels of one image compare, and GAP compares labels of different images:
    which of its readings does that better is tried, so that it does not lose by how it is read.
    """
    if variant.family != SOFTMAX:
        return "logits", logits
    shares = {
        split: found - np.logaddexp.reduce(found, axis=1, keepdims=True)
        for split, found in logits.items()
    }
    readings = {"logits": logits, "shares": shares}
    best = max(
        readings, key=lambda name: _name_figures(readings[name]["validation"], validation)["gap"]
    )
    return best, readings[best]


def _name_figures(scores: Floats, images: PixelSet) -> dict[str, float]:
    figures = make_ranking_metrics(scores, images.targets, images.known)
    return {name: float(getattr(figures, name)) for name in FIGURES}


def measure_with_intervals(
    scores: Floats,
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    *,
    resamples: int,
) -> dict[str, dict[str, float]]:
    """Each of ``FIGURES`` with a percentile interval over resampled images.

    Args:
        scores: [N, L], finite, on any scale.
        targets: [N, L].
        known: [N, L].
        resamples: How many.

    Returns:
        value, low and high of each figure.
    """
    pooled = {
        "gap": rank_pooled(scores, targets, known),
        "gap_at_10": rank_pooled(scores, targets, known, k=_K),
    }
    by_label = rank_labels(scores, targets, known)
    drawn: dict[str, list[Floats]] = {name: [] for name in FIGURES}
    for weights in draw_weights(len(scores), resamples, seed=0):
        for name, ranking in pooled.items():
            drawn[name].append(ranking.average_precision(weights))
        precisions = np.stack([one.average_precision(weights) for one in by_label])
        drawn["macro_map"].append(np.ma.masked_invalid(precisions).mean(axis=0).filled(np.nan))
    outside = (1 - CONFIDENCE) / 2
    measured = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        low, high = np.nanquantile(values[1:], [outside, 1 - outside])
        measured[name] = {"value": float(values[0]), "low": float(low), "high": float(high)}
    return measured
