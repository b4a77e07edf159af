"""The images that models are compared on, the same ones each time, with labels or without.

Knows pyarrow, not Spark and not torch. Shapes: N images, L labels.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from pipeline.config import SampleConfig
from pipeline.errors import ManifestError
from pipeline.images.loader import ImageRequest
from pipeline.images.manifest_rows import open_manifest, read_requests

_WHAT = "the sample"
_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images of a manifest, each id once, in the manifest's order.

    Attributes:
        config: Where they come from.
        columns: Column of each role that the manifest has.
        rows: Row of each image in the manifest, N of them, ascending, by its id.
        held: Ids of the labels that hold, of each image; None: the manifest has no labels.
        unknown: Ids of the labels nobody checked, of each image.
    """

    config: SampleConfig
    columns: dict[str, str]
    rows: dict[str, int]
    held: tuple[frozenset[str], ...] | None
    unknown: tuple[frozenset[str], ...]

    def requests(self) -> Iterator[ImageRequest]:
        """Read the images' uris, bytes and texts, a few rows at a time.

        Returns:
            One request for each image, in order, its key the image's id.

        Raises:
            ManifestError: The manifest changed since it was read first.
        """
        wanted = {row: key for key, row in self.rows.items()}
        return read_requests(self.config.path, self.columns, wanted, what=_WHAT)

    def marks(
        self, labels: Sequence[str], keep: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
        """What some of the images show: targets and known, [N', L] both; None without labels.

        Args:
            labels: Label ids, L of them.
            keep: [N]: which images.
        """
        if self.held is None:
            return None
        kept = np.flatnonzero(keep)
        targets = np.array([[one in self.held[i] for one in labels] for i in kept], bool)
        unknown = np.array([[one in self.unknown[i] for one in labels] for i in kept], bool)
        shape = (len(kept), len(labels))
        return (targets & ~unknown).reshape(shape), ~unknown.reshape(shape)


def read_sample(config: SampleConfig, labels: Sequence[str]) -> Sample:
    """Choose the images of a sample and read what is known of them.

    Which ones are chosen depends on their ids alone, so that it is the same ones when the manifest
    has grown, or its rows have moved.

    Args:
        config: Place and columns.
        labels: Label ids that either model has. The manifest may name others.

    Raises:
        ManifestError: It cannot be read, a column is missing, an id is null, there is no image of
            the split, or no image has a label that a model has.
    """
    dataset = open_manifest(config.path, what=_WHAT)
    columns = _find_columns(config, dataset.schema)
    light = [name for role, name in columns.items() if role != "content"]
    table = dataset.to_table(columns=light)
    ids = table[columns["image_id"]].cast(pa.string()).to_pylist()
    if None in ids or "" in ids:
        raise ManifestError(
            "rows of the sample have no image_id", where=config.path, got=f"row {_first(ids)}"
        )
    rows = dict(reversed([(key, row) for row, key in enumerate(ids)]))  # the first of each id
    if "split" in columns:
        splits = table[columns["split"]].to_pylist()
        rows = {key: row for key, row in rows.items() if splits[row] == config.use}
    if not rows:
        raise ManifestError(
            "the sample has no image",
            where=config.path,
            expected=f"rows with {columns['split']} = {config.use}" if "split" in columns else None,
        )
    chosen = sorted(heapq.nsmallest(config.images, rows, key=_rank), key=rows.__getitem__)
    held = _read_lists(table, columns.get("labels"), [rows[key] for key in chosen])
    unknown = _read_lists(table, columns.get("unknown"), [rows[key] for key in chosen])
    if held is not None and not frozenset().union(*held) & set(labels):
        raise ManifestError(
            "no image of the sample has a label that a model has",
            where=f"{config.path}, column {columns['labels']}",
            expected=f"label ids such as {list(labels)[:_EXAMPLES]}",
            got=sorted(frozenset().union(*held))[:_EXAMPLES],
        )
    return Sample(
        config=config,
        columns=columns,
        rows={key: rows[key] for key in chosen},
        held=held,
        unknown=unknown or tuple(frozenset() for _ in chosen),
    )


def _find_columns(config: SampleConfig, schema: pa.Schema) -> dict[str, str]:
    """Role to column, for the columns that are there; a missing one that was named is an error."""
    roles = ("image_id", "uri", "content", "text", "labels", "unknown", "split")
    columns: dict[str, str] = {}
    for role in roles:
        named = getattr(config, role)
        if (named or role) in schema.names:
            columns[role] = named or role
        elif named is not None:
            raise ManifestError(
                f"the sample has no column {named} for {role}",
                where=config.path,
                got=schema.names,
                todo=f"name it with sample.{role}",
            )
    for role in ("labels", "unknown"):
        kind = schema.field(columns[role]).type if role in columns else pa.list_(pa.string())
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise ManifestError(
                f"column {columns[role]} of the sample has the wrong type",
                where=config.path,
                expected="array of strings",
                got=kind,
            )
    text = schema.field(columns["text"]).type if "text" in columns else pa.string()
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        raise ManifestError(
            f"column {columns['text']} of the sample has the wrong type",
            where=config.path,
            expected="string",
            got=text,
        )
    if "uri" not in columns and "content" not in columns:
        raise ManifestError(
            "the sample has neither a uri nor a content column",
            where=config.path,
            got=schema.names,
            todo="name one with sample.uri or sample.content",
        )
    return columns


def _read_lists(
    table: pa.Table, column: str | None, rows: Sequence[int]
) -> tuple[frozenset[str], ...] | None:
    if column is None:
        return None
    lists = table[column].take(pa.array(rows, pa.int64())).to_pylist()
    return tuple(frozenset(str(one) for one in entries or ()) for entries in lists)


def _rank(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def _first(ids: Sequence[str | None]) -> int:
    return next(row for row, key in enumerate(ids) if not key)
