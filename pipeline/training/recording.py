"""What a training tells MLflow: its data, its curves, what it came to, and its bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.config import TrackingConfig, TrainModelConfig
from pipeline.models.bundle_info import BundleInfo
from pipeline.redaction import redact
from pipeline.registry.connection import connect
from pipeline.registry.provenance import digest_labels
from pipeline.registry.tracking import Tracker, is_unfinished, tracked_run
from pipeline.taxonomy import Taxonomy
from pipeline.training.checkpoint import find_run, keep_run
from pipeline.training.data import LabelledImages
from pipeline.training.history import Epoch

_LOG = logging.getLogger(__name__)

JOB = "train_model"
# What names a run in a checkpoint's folder.
_STORE, _RUN = "store", "run"


@contextmanager
def recorded_training(config: TrainModelConfig, *, leads: bool) -> Iterator[Tracker]:
    """A run in MLflow for as long as the block lasts; one process of a training keeps it.

    A training that goes on from its checkpoint goes on in its run.

    Args:
        config: The job's configuration.
        leads: Whether this process is the one.
    """
    tracking = replace(config.tracking, enabled=config.tracking.enabled and leads)
    tracked = replace(config, tracking=tracking)
    folder, checkpoint = Path(config.bundle).absolute().parent, config.checkpoint.folder
    kept = _find_kept(tracking, folder, checkpoint) if checkpoint is not None else None
    with tracked_run(tracked, job=JOB, folder=folder, run_id=kept) as tracker:
        if checkpoint is not None and tracker.run_id is not None:
            store = str(tracker.describe()["mlflow_store"])
            keep_run(checkpoint, {_STORE: store, _RUN: tracker.run_id})
        yield tracker


def _find_kept(tracking: TrackingConfig, folder: Path, checkpoint: str) -> str | None:
    """The run of the training that was cut off, if the store has it."""
    told = find_run(checkpoint)
    if not tracking.enabled or not told.keys() >= {_STORE, _RUN}:
        return None
    connection = connect(tracking, folder=folder)
    if told[_STORE] != redact(connection.tracking_uri):
        return None
    if not is_unfinished(connection, told[_RUN]):
        return None
    _LOG.info("going on in MLflow's run %s", told[_RUN])
    return told[_RUN]


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
