"""From a configuration to a bundle: reads the labelled manifest, trains, writes, sums up.

The steps of ``train_model`` in order, and nothing else. Runs in one process without Spark; a job
that wants another launcher hands it in from outside.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import ModelConfig, TrainModelConfig
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.evaluation.metrics import gap, label_frequencies
from pipeline.images.reasons import Reason
from pipeline.models.bundle import write_bundle
from pipeline.models.bundle_info import model_version
from pipeline.models.device import choose_device
from pipeline.models.labels import tokenize_labels
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers, load_towers
from pipeline.ranges import validate_ranges
from pipeline.taxonomy import Taxonomy, read_taxonomy
from pipeline.training.checkpoint import remove_checkpoint
from pipeline.training.data import read_labelled
from pipeline.training.loop import TrainedModel, train
from pipeline.training.objective import make_mumic
from pipeline.training.pixels import PixelSet, enlarge, make_pixel_set

_LOG = logging.getLogger(__name__)

# Warn below so few training images that have a label.
_FEW_POSITIVES = 5


def run_training(config: TrainModelConfig) -> dict[str, Any]:
    """Train MuMIC as configured and write its bundle.

    Returns:
        The summary, plain JSON data: job, state, bundle, model_version (of the default inference
        profile), taxonomy_version, epochs, best_epoch, images (trained on), validation_images,
        left_out (by reason), images_per_s, seconds, validation (figures, or None), tau, bias.

    Raises:
        PipelineError: Configuration, manifest, taxonomy or device cannot be used, or the training
            diverged. No bundle is left then.
    """
    started = time.monotonic()
    validate_ranges(config)
    _validate(config)
    taxonomy = read_taxonomy(config.taxonomy)
    images = read_labelled(config.manifest, taxonomy)
    if not len(images.indices("train")):
        raise ManifestError(
            "the labelled manifest has no training image",
            where=config.manifest.path,
            expected=f"rows with {config.manifest.split} = train",
        )
    device = choose_device(config.device, ())
    towers, mumic = _make_model(config)
    with tempfile.TemporaryDirectory(prefix="mumic-train-") as folder:
        decoded = functools.partial(
            make_pixel_set,
            images,
            fetch=config.fetch,
            decode=config.decode,
            folder=Path(folder),
            progress=_shows_progress(config),
        )
        larger = enlarge(towers.preprocessing) if config.augment else towers.preprocessing
        training = decoded("train", preprocessing=larger)
        validation = decoded("validation", preprocessing=towers.preprocessing)
        _warn_of_rare_labels(training, taxonomy)
        tokens, owners = tokenize_labels(towers.tokenizer, taxonomy)
        trained = train(
            mumic,
            tokens=tokens,
            owners=owners,
            training=training,
            validation=validation,
            preprocessing=towers.preprocessing,
            optimizer=config.optimizer,
            loss=config.loss,
            device=device,
            augmented=config.augment,
            progress=_shows_progress(config),
            checkpoint=config.checkpoint,
        )
        figures = _make_figures(trained, training, validation)
        left_out = images.left_out + training.left_out + validation.left_out
        counts = {"images": len(training), "validation_images": len(validation)}
    bundle = write_bundle(
        config.bundle,
        mumic=trained.mumic,
        towers=towers,
        taxonomy=taxonomy,
        licence=config.towers.licence,
        training=_make_memory(config, trained, figures) | counts,
    )
    if config.checkpoint.folder is not None:
        remove_checkpoint(config.checkpoint.folder)
    profile = ModelConfig(uri=config.bundle)
    return {
        "job": "train_model",
        "state": "done",
        "bundle": config.bundle,
        "model_version": model_version(
            bundle.info, precision=profile.precision, scaled_decoding=profile.scaled_decoding
        ),
        "taxonomy_version": taxonomy.version,
        "epochs": len(trained.epochs),
        "best_epoch": trained.best + 1,
        **counts,
        "left_out": _by_reason(left_out),
        "images_per_s": round(trained.images_per_s, 1),
        "seconds": round(time.monotonic() - started, 1),
        "validation": figures,
        "tau": bundle.info.tau,
        "bias": bundle.info.logit_bias,
    }


def _validate(config: TrainModelConfig) -> None:
    """What would only fail after the training, or in a way nobody understands, fails first."""
    if os.path.lexists(config.bundle):
        raise ConfigurationError(
            "a bundle is never overwritten",
            where=config.bundle,
            todo="choose a folder that is not there",
        )
    if config.loss.kind == "linear_head":
        raise ConfigurationError(
            "a bundle cannot hold a linear head: it knows its own labels only, and no texts",
            where="loss.kind",
            expected="tempered_sigmoid, plain_bce, asymmetric or softmax",
            got="linear_head",
            todo="compare with it through pipeline.training.loop.train",
        )


def _make_model(config: TrainModelConfig) -> tuple[Towers, MuMIC]:
    """Towers and model; random weights come from the training's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimizer.seed)
        towers = load_towers(config.towers)
    return towers, make_mumic(towers.model, config.loss)


def _shows_progress(config: TrainModelConfig) -> bool:
    return config.log.progress and config.log.format == "text"


def _warn_of_rare_labels(training: PixelSet, taxonomy: Taxonomy) -> None:
    counts = training.targets.sum(axis=0)
    rare = [
        f"{label.id} ({count})"
        for (_, label), count in zip(taxonomy.labels, counts, strict=True)
        if count < _FEW_POSITIVES
    ]
    if rare:
        _LOG.warning("labels with few training images: %s", ", ".join(rare))


def _make_figures(
    trained: TrainedModel, training: PixelSet, validation: PixelSet
) -> dict[str, float | int | None] | None:
    """Validation figures of the weights that were kept, with the baseline they have to beat."""
    figures = trained.validation
    if figures is None:
        return None
    frequencies = label_frequencies(training.targets, training.known)
    baseline = gap(
        np.tile(frequencies, (len(validation), 1)), validation.targets, known=validation.known
    )
    defined = None if np.isnan(baseline) else baseline
    return figures.to_dict() | {"gap_of_label_frequencies": defined}


def _make_memory(
    config: TrainModelConfig, trained: TrainedModel, figures: dict[str, float | int | None] | None
) -> dict[str, Any]:
    """What the bundle remembers: no times and places, so that equal trainings write equal files."""
    return {
        "towers": asdict(config.towers),
        "optimizer": asdict(config.optimizer),
        "loss": asdict(config.loss),
        "augment": config.augment,
        "losses": [epoch.loss for epoch in trained.epochs],
        "best_epoch": trained.best + 1,
        "validation": figures,
    }


def _by_reason(left_out: Counter[Reason]) -> dict[str, int]:
    return {str(reason): count for reason, count in sorted(left_out.items())}
