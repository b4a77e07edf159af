"""From what a labelled manifest lists of its images to marks, one for each image and label.

Shapes: N rows, L labels of the taxonomy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from pipeline.errors import ManifestError
from pipeline.taxonomy import Taxonomy

_EXAMPLES = 5


def mark_labels(
    lists: pa.ChunkedArray, column: str, taxonomy: Taxonomy, path: str
) -> npt.NDArray[np.bool_]:
    """Mark the labels that rows list. A null list is an empty one.

    Args:
        lists: Of label ids, N of them.
        column: Its name, for errors.
        taxonomy: Labels in the order of columns.
        path: The manifest, for errors.

    Returns:
        [N, L]: the row lists the label; in each task that has its id.

    Raises:
        ManifestError: A row lists a label that the taxonomy does not have.
    """
    flat = lists.combine_chunks()
    parents = pc.list_parent_indices(flat).to_numpy()
    values = np.array(pc.list_flatten(flat).to_pylist(), dtype=object)
    labels = [label.id for _, label in taxonomy.labels]
    if strange := sorted({str(value) for value in values} - set(labels)):
        raise ManifestError(
            f"column {column} has {len(strange)} labels that the taxonomy does not have",
            where=path,
            expected=f"label ids such as {labels[:_EXAMPLES]}",
            got=strange[:_EXAMPLES],
            todo="add them to the taxonomy, or leave them out of the manifest",
        )
    marked = np.zeros((len(lists), len(labels)), bool)
    for position, label_id in enumerate(labels):
        marked[parents[values == label_id], position] = True
    return marked


def mark_attributes(
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    attributes: Sequence[Mapping[str, str | None] | None],
    taxonomy: Taxonomy,
    path: str,
) -> None:
    """Put the values of single_label tasks into the marks of lists, in place.

    Args:
        targets: [N, L]: the label holds.
        known: [N, L]: somebody checked it.
        attributes: Of each row, task id to label id.
        taxonomy: Labels in the order of columns.
        path: The manifest, for errors.

    Raises:
        ManifestError: A value is no label of its task.
    """
    for task, columns in taxonomy.columns:
        if task.kind != "single_label":
            continue
        places = {label.id: place for place, label in enumerate(task.labels, columns.start)}
        values = [None if told is None else told.get(task.id) for told in attributes]
        if strange := sorted({value for value in values if value is not None} - places.keys()):
            raise ManifestError(
                f"attribute {task.id} has {len(strange)} values that are no label of its task",
                where=path,
                expected=f"label ids such as {list(places)[:_EXAMPLES]}",
                got=strange[:_EXAMPLES],
                todo="add them to the taxonomy, or leave them out of the manifest",
            )
        for row, value in enumerate(values):
            if value is not None:
                targets[row, columns] = False
                targets[row, places[value]] = True
        # What the image is not says nothing about what it is.
        known[:, columns] &= targets[:, columns].any(axis=1, keepdims=True)
