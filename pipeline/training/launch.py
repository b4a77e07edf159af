"""From a configuration to a bundle: reads the labelled manifest, trains, writes, sums up.

The steps of ``train_model`` in order, and nothing else. Knows no Spark: whoever wants several
processes starts them, and each runs this.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import ModelConfig, TrainModelConfig
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.evaluation.metrics import gap, label_frequencies
from pipeline.images.reasons import Reason
from pipeline.models.bundle_folder import validate_new
from pipeline.models.bundle_info import BundleInfo, model_version
from pipeline.models.towers import Towers, load_towers
from pipeline.ranges import validate_ranges
from pipeline.taxonomy import Taxonomy, read_taxonomy
from pipeline.training.checkpoint import remove_checkpoint
from pipeline.training.course import Course, make_course, write_trained
from pipeline.training.data import LabelledImages, read_labelled
from pipeline.training.loop import TrainedModel, train
from pipeline.training.pixels import PixelSet, enlarge, make_pixel_set
from pipeline.training.processes import Processes, join_processes
from pipeline.training.recording import (
    JOB,
    record_data,
    record_epoch,
    record_result,
    recorded_training,
)
from pipeline.training.suspects import leave_out_suspects

_LOG = logging.getLogger(__name__)

# Warn below so few training images that have a label.
_FEW_POSITIVES = 5


def run_training(config: TrainModelConfig) -> dict[str, Any]:
    """Train a model as configured and write its bundle, with the processes that are there.

    What started several of them (torchrun, Spark's TorchDistributor) has told each in its
    environment; otherwise it is one.

    Returns:
        The summary, plain JSON data, the same in every process: job, state, bundle, model_version
        (of the default inference profile), taxonomy_version, epochs, best_epoch, images (trained
        on), validation_images, left_out (by reason), images_per_s, seconds, processes, validation
        (figures, or None), and what the kind of model tells: MuMIC's tau and bias.

    Raises:
        PipelineError: Configuration, manifest, taxonomy, checkpoint or device cannot be used, or
            the training diverged. No bundle is left then.
    """
    started = time.monotonic()
    validate_training(config)
    with (
        join_processes(config.device) as (processes, device),
        recorded_training(config, leads=processes.leads) as tracker,
    ):
        summary: dict[str, Any] = {}
        taxonomy = read_taxonomy(config.taxonomy)
        towers, course = _make_course(config, taxonomy)
        with tempfile.TemporaryDirectory(prefix="mumic-train-") as folder:
            images = _read_images(config, taxonomy, reads_text=course.network.reads_text)
            record_data(tracker, images, taxonomy, source=config.manifest.path)
            training, validation, left_out = _decode(
                config,
                images,
                towers,
                processes,
                Path(folder),
                reads_text=course.network.reads_text,
            )
            trained = train(
                course,
                training=training,
                validation=validation,
                preprocessing=towers.preprocessing,
                optimizer=config.optimizer,
                device=device,
                augmented=config.augment,
                progress=_shows_progress(config),
                processes=processes,
                checkpoint=config.checkpoint,
                on_epoch=functools.partial(record_epoch, tracker),
            )
            figures, counts = _make_figures(trained, training, validation, taxonomy, processes)
        if processes.leads:
            info = _write(
                config,
                trained,
                towers=towers,
                taxonomy=taxonomy,
                figures=figures,
                counts=counts,
                labels=_known_labels(images, taxonomy),
            )
            record_result(tracker, info, figures)
            summary = {
                "job": JOB,
                "state": "done",
                "bundle": config.bundle,
                **_describe(info),
                "epochs": len(trained.epochs),
                "best_epoch": trained.best + 1,
                **counts,
                "left_out": left_out,
                "images_per_s": round(trained.images_per_s, 1),
                "seconds": round(time.monotonic() - started, 1),
                "processes": processes.count,
                "validation": figures,
                **tracker.describe(),
            }
        shared: dict[str, Any] = json.loads(processes.share_text(json.dumps(summary)))
        return shared


def validate_training(config: TrainModelConfig) -> None:
    """Refuse first what would only fail after the training, or in a way nobody understands.

    Raises:
        ConfigurationError: A setting is out of range, the bundle exists, or no bundle could hold
            what would be trained.
    """
    validate_ranges(config)
    validate_new(config.bundle)
    if config.kind == "mumic" and config.loss.kind == "linear_head":
        raise ConfigurationError(
            "a bundle cannot hold a linear head: it knows its own labels only, and no texts",
            where="loss.kind",
            expected="tempered_sigmoid, plain_bce, asymmetric or softmax",
            got="linear_head",
            todo="compare with it through pipeline.training.loop.train",
        )


def _make_course(config: TrainModelConfig, taxonomy: Taxonomy) -> tuple[Towers, Course[Any]]:
    """Towers, and what is trained; random weights come from the training's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimizer.seed)
        towers = load_towers(config.towers)
        return towers, make_course(config, towers, taxonomy)


def _shows_progress(config: TrainModelConfig) -> bool:
    return config.log.progress and config.log.format == "text"


def _read_images(
    config: TrainModelConfig, taxonomy: Taxonomy, *, reads_text: bool
) -> LabelledImages:
    images = leave_out_suspects(read_labelled(config.manifest, taxonomy), taxonomy, config.suspects)
    if not len(images.indices("train")):
        raise ManifestError(
            "the labelled manifest has no training image",
            where=config.manifest.path,
            expected=f"rows with {config.manifest.split} = train, or groups",
        )
    if reads_text and not any(images.texts):
        raise ManifestError(
            "the labelled manifest has no text to learn from",
            where=config.manifest.path,
            expected="a column with titles",
            todo="name it with manifest.text, or set cma_clip.modalities to image",
        )
    return images


def _known_labels(images: LabelledImages, taxonomy: Taxonomy) -> list[str]:
    """Ids of the labels the training hears of: of all others its scores are zero-shot."""
    heard_of = np.flatnonzero(images.known[images.indices("train")].any(axis=0))
    return [taxonomy.labels[column][1].id for column in heard_of]


def _decode(
    config: TrainModelConfig,
    images: LabelledImages,
    towers: Towers,
    processes: Processes,
    folder: Path,
    *,
    reads_text: bool,
) -> tuple[PixelSet, PixelSet, dict[str, int]]:
    """This process' images to train on and to validate with, and what all left out, by reason."""
    decode = functools.partial(
        make_pixel_set,
        images,
        fetch=config.fetch,
        decode=config.decode,
        folder=folder,
        progress=_shows_progress(config) and processes.leads,
        process=processes.index,
        processes=processes.count,
        tokenizer=towers.tokenizer if reads_text else None,
    )
    larger = enlarge(towers.preprocessing) if config.augment else towers.preprocessing
    training = decode("train", preprocessing=larger)
    validation = decode("validation", preprocessing=towers.preprocessing)
    of_pixels = training.left_out + validation.left_out
    counts = processes.add_up(torch.tensor([of_pixels[reason] for reason in Reason])).tolist()
    left_out = images.left_out + Counter(dict(zip(Reason, counts, strict=True)))
    return training, validation, {str(r): n for r, n in sorted(left_out.items()) if n}


def _write(
    config: TrainModelConfig,
    trained: TrainedModel[Any],
    *,
    towers: Towers,
    taxonomy: Taxonomy,
    figures: dict[str, float | int | None] | None,
    counts: dict[str, int],
    labels: list[str],
) -> BundleInfo:
    """Write the bundle; what the training could have gone on from is no longer needed then."""
    bundle = write_trained(
        trained.network,
        config.bundle,
        towers=towers,
        taxonomy=taxonomy,
        licence=config.towers.licence,
        training=_make_memory(config, trained, figures) | counts | {"labels": labels},
    )
    if config.checkpoint.folder is not None:
        remove_checkpoint(config.checkpoint.folder)
    return bundle.info


def _describe(info: BundleInfo) -> dict[str, Any]:
    profile = ModelConfig(uri=str(info.path))
    return {
        "model_version": model_version(
            info, precision=profile.precision, scaled_decoding=profile.scaled_decoding
        ),
        "taxonomy_version": info.taxonomy.version,
        **({"tau": info.tau, "bias": info.logit_bias} if info.scores_from_embedding else {}),
    }


def _warn_of_rare_labels(positives: npt.NDArray[np.int64], taxonomy: Taxonomy) -> None:
    rare = [
        f"{label.id} ({count})"
        for (_, label), count in zip(taxonomy.labels, positives, strict=True)
        if count < _FEW_POSITIVES
    ]
    if rare:
        _LOG.warning("labels with few training images: %s", ", ".join(rare))


def _make_figures(
    trained: TrainedModel[Any],
    training: PixelSet,
    validation: PixelSet,
    taxonomy: Taxonomy,
    processes: Processes,
) -> tuple[dict[str, float | int | None] | None, dict[str, int]]:
    """Validation figures of the weights that were kept, with the baseline they have to beat."""
    targets, known, validation_targets, validation_known = (
        processes.gather(torch.from_numpy(marks)).numpy()
        for images in (training, validation)
        for marks in (images.targets, images.known)
    )
    if processes.leads:
        _warn_of_rare_labels(targets.sum(axis=0), taxonomy)
    counts = {"images": len(targets), "validation_images": len(validation_targets)}
    figures = trained.validation
    if figures is None:
        return None, counts
    frequencies = label_frequencies(targets, known)
    baseline = gap(
        np.tile(frequencies, (len(validation_targets), 1)),
        validation_targets,
        known=validation_known,
    )
    defined = None if np.isnan(baseline) else baseline
    return figures.to_dict() | {"gap_of_label_frequencies": defined}, counts


def _make_memory(
    config: TrainModelConfig,
    trained: TrainedModel[Any],
    figures: dict[str, float | int | None] | None,
) -> dict[str, Any]:
    """What the bundle remembers: no times and places, so that equal trainings write equal files."""
    return {
        "towers": asdict(config.towers),
        "optimizer": asdict(config.optimizer),
        **(
            {"loss": asdict(config.loss)}
            if config.kind == "mumic"
            else {"cma_training": asdict(config.cma_training)}
        ),
        "augment": config.augment,
        "losses": [epoch.loss for epoch in trained.epochs],
        "best_epoch": trained.best + 1,
        "validation": figures,
    }
