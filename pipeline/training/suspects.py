"""Labels that are probably wrong, left out of a training: they count as ones nobody checked.

``evaluate_model`` leaves a table of them. Whoever has no time to work through it can still keep a
training from learning them. What that is worth: docs/decisions/noisy-labels.md. All of it is ours.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pipeline.config import SuspectsConfig
from pipeline.errors import ManifestError
from pipeline.taxonomy import Taxonomy
from pipeline.training.data import LabelledImages
from pipeline.training.splits import Split

_LOG = logging.getLogger(__name__)

# Of a table that evaluate_model wrote; it has more.
_COLUMNS = ("image_id", "task", "label", "kind", "given", "confident")
# Test images keep their labels: figures of images that were chosen by a model flatter it.
_SPLITS: tuple[Split, ...] = ("train", "validation")


def leave_out_suspects(
    images: LabelledImages, taxonomy: Taxonomy, config: SuspectsConfig
) -> LabelledImages:
    """Make labels unknown that are probably wrong, of training and validation images.

    Only what the manifest still says is left out: a label that somebody corrected since the table
    was written is known.

    Args:
        images: The labelled manifest.
        taxonomy: Its labels.
        config: The table, and which of its rows.

    Returns:
        The images as they were where no table is named.

    Raises:
        ManifestError: The table cannot be read, or is none of ``evaluate_model``.
    """
    if config.table is None:
        return images
    rows = [
        row for row in _read_table(config.table) if row["confident"] and row["kind"] in config.kinds
    ]
    columns = {(task.id, label.id): at for at, (task, label) in enumerate(taxonomy.labels)}
    places = {
        image_id: at
        for at, (image_id, split) in enumerate(zip(images.ids, images.splits, strict=True))
        if split in _SPLITS
    }
    known = images.known.copy()
    for row in rows:
        image, label = places.get(row["image_id"]), columns.get((row["task"], row["label"]))
        if image is not None and label is not None and images.targets[image, label] == row["given"]:
            known[image, label] = False
    left_out = int((images.known & ~known).sum())
    _LOG.info("%d labels of %s are left out of the training", left_out, config.table)
    if rows and not left_out:
        _LOG.warning("no label of %s is one of the manifest's", config.table)
    return replace(images, known=known, targets=images.targets & known)


def _read_table(path: str) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path, columns=list(_COLUMNS))
        missing = sorted(set(_COLUMNS) - set(table.column_names))
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            "the table of label errors cannot be read",
            where=path,
            expected="label_errors.parquet of evaluate_model",
            got=str(error).split(". Detail:")[0],
        ) from error
    if missing:
        raise ManifestError(
            "the table of label errors lacks columns",
            where=path,
            expected="label_errors.parquet of evaluate_model",
            got=f"no {', '.join(missing)}",
        )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
