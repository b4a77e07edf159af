"""A labelled manifest as arrays: which images there are, what is on them, and what nobody checked.

Labels are read once and kept; image bytes are streamed when pixels are made from them, so that a
manifest with its images inside need not fit into memory. Knows pyarrow, not Spark and not torch.

Shapes: N images, L labels of the taxonomy.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from pipeline.config import LabelledManifestConfig
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.images.loader import ImageRequest
from pipeline.images.manifest_rows import open_manifest, read_requests
from pipeline.images.reasons import Reason
from pipeline.taxonomy import Taxonomy
from pipeline.training.columns import find_columns, is_string
from pipeline.training.marks import mark_attributes, mark_labels
from pipeline.training.splits import SPLITS, Split, split_group

_LOG = logging.getLogger(__name__)

_WHAT = "the labelled manifest"
_EXAMPLES = 5


@dataclass(frozen=True)
class LabelledImages:
    """The images of a labelled manifest, each id once, in the manifest's order.

    Attributes:
        config: Where they come from.
        columns: The manifest's columns that hold image_id, uri and content.
        ids: Image ids, N of them.
        splits: [N], each of ``SPLITS``.
        targets: [N, L] bool: the label holds.
        known: [N, L] bool: somebody checked whether it holds.
        texts: What stands beside each image, N of them; None where nothing does.
        rows: [N] int64: row of the manifest, to find the image's bytes again.
        left_out: Images that cannot be used whatever their bytes are, by reason.
    """

    config: LabelledManifestConfig
    columns: dict[str, str]
    ids: tuple[str, ...]
    splits: npt.NDArray[np.str_]
    targets: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    texts: tuple[str | None, ...]
    rows: npt.NDArray[np.int64]
    left_out: Counter[Reason]

    def indices(self, split: Split) -> npt.NDArray[np.int64]:
        """Positions of a split's images, ascending."""
        return np.flatnonzero(self.splits == split)

    def requests(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[ImageRequest]:
        """Read the images' uris and bytes, a few rows at a time; texts travel along.

        Args:
            indices: Positions of images, ascending.

        Returns:
            One request for each index, in order, its key the image's id.

        Raises:
            ManifestError: The manifest changed since its labels were read.
        """
        wanted = {int(self.rows[index]): self.ids[index] for index in indices}
        return read_requests(self.config.path, self.columns, wanted, what=_WHAT)


def read_labelled(config: LabelledManifestConfig, taxonomy: Taxonomy) -> LabelledImages:
    """Read a labelled manifest: one or more Parquet files, each image id once.

    A row that repeats another one counts once. Rows that contradict each other under one id, and
    rows with neither uri nor content, are left out and counted.

    Args:
        config: Place and columns. ``labels`` lists the ids of the labels that hold; an empty list
            says that none does. A label listed as ``unknown`` counts as unchecked, also where
            ``labels`` has it. Where there are ``attributes``, the label of a single_label task is
            the one under the task's id, or the task's in ``labels``; where there is neither, nobody
            checked the task. Attributes that are no task of the taxonomy are passed over. A
            ``group`` decides the split where it is named, or where there is no split column: see
            :func:`split_group`.
        taxonomy: Gives L and the order of labels. A label id that several tasks have holds in
            each of them.

    Raises:
        ManifestError: It cannot be read, a column is missing or mistyped, ids or labels are null,
            a label is not in the taxonomy, an attribute's value is no label of its task, or a
            split is not one of ``SPLITS``.
        ConfigurationError: The shares of the splits leave nothing to train on.
    """
    if config.validation_share + config.test_share >= 1:
        raise ConfigurationError(
            "the shares leave no group to train on",
            where="manifest.validation_share, manifest.test_share",
            expected="less than 1 together",
            got=config.validation_share + config.test_share,
        )
    dataset = open_manifest(config.path, what=_WHAT)
    columns = find_columns(config, dataset.schema)
    light = [name for role, name in columns.items() if role != "content"]
    table = dataset.to_table(columns=light)
    if "content" in columns:
        # whether there are bytes, without reading them all into memory
        has_content = dataset.to_table(columns={"has": pc.field(columns["content"]).is_valid()})[
            "has"
        ].to_numpy()
    else:
        has_content = np.zeros(table.num_rows, bool)

    belonging = "group" if "group" in columns else "split"
    _refuse_nulls(table, columns, ("image_id", "labels", belonging), config.path)
    ids = table[columns["image_id"]].cast(pa.string()).to_pylist()
    told = table[columns[belonging]].cast(pa.string()).to_pylist()
    splits = _read_splits(told, config, columns)
    targets = mark_labels(table[columns["labels"]], columns["labels"], taxonomy, config.path)
    known = np.ones_like(targets)
    if "unknown" in columns:
        known = ~mark_labels(table[columns["unknown"]], columns["unknown"], taxonomy, config.path)
    if "attributes" in columns:
        attributes = table[columns["attributes"]].to_pylist(maps_as_pydicts="strict")
        mark_attributes(targets, known, attributes, taxonomy, config.path)
    uris = table[columns["uri"]].to_pylist() if "uri" in columns else [None] * len(ids)
    texts = table[columns["text"]].to_pylist() if "text" in columns else [None] * len(ids)

    left_out: Counter[Reason] = Counter()
    kept = _keep_each_once(ids, list(zip(uris, told, texts, strict=True)), targets, known, left_out)
    sourced = [row for row in kept if has_content[row] or uris[row]]
    if len(sourced) < len(kept):
        left_out[Reason.NO_SOURCE] += len(kept) - len(sourced)
    rows = np.array(sourced, dtype=np.int64)
    _LOG.info(
        "%s: %d labelled images, %s, %d labels",
        config.path,
        len(rows),
        ", ".join(f"{int((splits[rows] == split).sum())} {split}" for split in SPLITS),
        targets.shape[1],
    )
    return LabelledImages(
        config=config,
        columns={r: n for r, n in columns.items() if r in ("image_id", "uri", "content", "text")},
        ids=tuple(ids[row] for row in sourced),
        splits=splits[rows],
        targets=targets[rows] & known[rows],
        known=known[rows],
        texts=tuple(texts[row] for row in sourced),
        rows=rows,
        left_out=left_out,
    )


def _read_splits(
    told: Sequence[str], config: LabelledManifestConfig, columns: dict[str, str]
) -> npt.NDArray[np.str_]:
    """The split of each row, as its split column tells it or its group decides, [N]."""
    if "group" in columns:
        split_of = {
            group: split_group(group, validation=config.validation_share, test=config.test_share)
            for group in set(told)
        }
        return np.array([split_of[group] for group in told], dtype=str)
    if wrong := sorted(set(told) - set(SPLITS)):
        raise ManifestError(
            f"unknown splits in column {columns['split']}",
            where=config.path,
            expected=", ".join(SPLITS),
            got=wrong[:_EXAMPLES],
        )
    return np.array(told, dtype=str)


def _refuse_nulls(
    table: pa.Table, columns: dict[str, str], roles: Sequence[str], path: str
) -> None:
    for role in roles:
        column = table[columns[role]]
        empty = pc.is_null(column)
        if role == "image_id" and is_string(column.type):
            empty = pc.or_kleene(empty, pc.equal(column, ""))
        rows = np.flatnonzero(empty.to_numpy())
        if len(rows):
            raise ManifestError(
                f"{len(rows)} rows have no {role} in column {columns[role]}",
                where=path,
                got=f"rows {rows[:_EXAMPLES].tolist()} and so on",
            )


def _keep_each_once(
    ids: Sequence[str],
    said: Sequence[object],
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    left_out: Counter[Reason],
) -> list[int]:
    """Rows to keep: the first of each id, none of an id whose rows contradict each other."""
    first: dict[str, int] = {}
    contradicted: set[str] = set()
    for row, image_id in enumerate(ids):
        standing = first.setdefault(image_id, row)
        if standing != row and not (
            said[standing] == said[row]
            and np.array_equal(targets[standing], targets[row])
            and np.array_equal(known[standing], known[row])
        ):
            contradicted.add(image_id)
    if contradicted:
        left_out[Reason.CONTRADICTION] += len(contradicted)
    return [row for image_id, row in first.items() if image_id not in contradicted]
