"""What a training tells MLflow: its data, its curves, what it came to, and its bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.config import TrainModelConfig
from pipeline.models.bundle_info import BundleInfo
from pipeline.registry.provenance import digest_labels
from pipeline.registry.tracking import Tracker, tracked_run
from pipeline.taxonomy import Taxonomy
from pipeline.training.data import LabelledImages
from pipeline.training.history import Epoch

JOB = "train_model"


@contextmanager
def recorded_training(config: TrainModelConfig, *, leads: bool) -> Iterator[Tracker]:
    """A run in MLflow for as long as the block lasts; one process of a training keeps it.

    Args:
        config: The job's configuration.
        leads: Whether this process is the one.
    """
    tracking = replace(config.tracking, enabled=config.tracking.enabled and leads)
    tracked = replace(config, tracking=tracking)
    with tracked_run(tracked, job=JOB, folder=Path(config.bundle).absolute().parent) as tracker:
        yield tracker


def record_data(
    tracker: Tracker, images: LabelledImages, taxonomy: Taxonomy, *, source: str
) -> None:
    """Say what the training learns from."""
    labels = [label.id for _, label in taxonomy.labels]
    rows = (
        (
            image_id,
            str(images.splits[row]),
            [labels[column] for column in images.targets[row].nonzero()[0]],
            [labels[column] for column in (~images.known[row]).nonzero()[0]],
        )
        for row, image_id in enumerate(images.ids)
    )
    tracker.log_data("labelled", digest=digest_labels(rows), source=source, context="training")


def record_epoch(tracker: Tracker, index: int, epoch: Epoch) -> None:
    """A point of each curve; epochs count from 1."""
    figures = {} if epoch.validation is None else epoch.validation.to_dict()
    curves = {f"validation.{name}": value for name, value in figures.items() if name != "images"}
    tracker.log_metrics({"loss": epoch.loss, **curves}, step=index + 1)


def record_result(
    tracker: Tracker, info: BundleInfo, figures: dict[str, float | int | None] | None
) -> None:
    """What the weights that were kept come to, and the bundle that holds them."""
    kept = {f"kept.{name}": value for name, value in (figures or {}).items()}
    if info.scores_from_embedding:
        kept |= {"tau": info.tau, "bias": info.logit_bias}
    tracker.log_metrics(kept)
    tracker.log_bundle(info)
