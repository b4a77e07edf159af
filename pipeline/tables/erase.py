"""Erasing images: a tombstone in ``images`` first, then every row of theirs everywhere else.

The tombstone comes first: from then on nobody publishes the image, and what a kill left is deleted
by erasing again, or by the next maintenance. Rows leave by MERGE with the ids as its source, since
a DELETE would write them into the table's log, in its own words.

Old versions of the tables hold what was erased until they are vacuumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.commit import one_commit
from pipeline.tables.lease import Lease
from pipeline.tables.merge import merge_rows
from pipeline.tables.schemas import (
    IMAGE_EMBEDDINGS,
    IMAGE_TAGS,
    IMAGES,
    TAGGING_RESULTS,
    TableDefinition,
)
from pipeline.tables.store import TableSet

HOLDING: tuple[TableDefinition, ...] = (IMAGE_TAGS, IMAGE_EMBEDDINGS, TAGGING_RESULTS)
"""The tables beside ``images`` with rows of images."""

UNKNOWN_SOURCE = "erased"
_NOBODY = 0  # as_of_seq of what no run asserted


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What an erasure did, or would do.

    Attributes:
        erased: Images that became tombstones.
        erased_before: Images that were tombstones already.
        unknown: Of ``erased``: images the tables had never heard of.
        rows_deleted: Rows by table.
    """

    erased: int = 0
    erased_before: int = 0
    unknown: int = 0
    rows_deleted: dict[str, int] = field(default_factory=dict)


def make_ids(tables: TableSet, ids: Sequence[str]) -> DataFrame:
    """Ids as a frame with the column image_id."""
    rows = [(image_id,) for image_id in sorted(set(ids))]
    return tables.spark.createDataFrame(rows, "image_id string")


def foresee_erasure(tables: TableSet, ids: DataFrame) -> Erasure:
    """What :func:`erase_images` would do. Changes nothing."""
    rows = {table.name: count_rows(tables, table.name, ids) for table in HOLDING}
    return replace(_foresee_tombstones(tables, ids), rows_deleted=rows)


def _foresee_tombstones(tables: TableSet, ids: DataFrame) -> Erasure:
    fates = (
        ids.join(tables.read(IMAGES.name).select("image_id", "status"), "image_id", "left")
        .groupBy("status")
        .count()
        .collect()
    )
    counts = {row["status"]: row["count"] for row in fates}
    before = counts.pop("erased", 0)
    return Erasure(erased=sum(counts.values()), erased_before=before, unknown=counts.get(None, 0))


def erase_images(tables: TableSet, ids: DataFrame, *, as_of: datetime, lease: Lease) -> Erasure:
    """Erase images; again: finish what was cut off, or change nothing.

    Args:
        tables: The table set. No run may be left in ``publishing``.
        ids: One column image_id; also of images nobody ever saw.
        as_of: The moment of the erasure.
        lease: Of the table set.

    Raises:
        LeaseError: The lease was lost.
        TablesError: The storage refuses.
    """
    erasure = _foresee_tombstones(tables, ids)
    if erasure.erased:
        merge_rows(
            tables,
            IMAGES,
            tombstones(ids, tables.read(IMAGES.name), as_of=as_of),
            values=tuple(IMAGES.columns.names),
            note="mumic erase tombstones",
            lease=lease,
        )
    rows = {
        table.name: delete_rows(tables, table.name, ids, note="mumic erase", lease=lease)
        for table in HOLDING
    }
    return replace(erasure, rows_deleted=rows)


def tombstones(ids: DataFrame, images: DataFrame, *, as_of: datetime) -> DataFrame:
    """The rows of ``images`` after an erasure: nothing but id, feed and date.

    Args:
        ids: image_id, each once.
        images: The table ``images``.
        as_of: The moment of the erasure.

    Returns:
        The columns of ``images``, for those of ``ids`` that are no tombstones yet.
    """
    standing = images.select("image_id", F.col("source").alias("feed"), "status")
    kept = {
        "image_id": F.col("image_id"),
        "source": F.coalesce("feed", F.lit(UNKNOWN_SOURCE)),
        "status": F.lit("erased"),
        "as_of": F.lit(as_of),
        "as_of_seq": F.lit(_NOBODY),
        "attempts": F.lit(0),
    }
    return (
        ids.join(standing, "image_id", "left")
        .where(F.col("status").isNull() | (F.col("status") != "erased"))
        .select(
            *(
                kept.get(column.name, F.lit(None)).cast(column.dataType).alias(column.name)
                for column in IMAGES.columns
            )
        )
    )


def count_tombstones(tables: TableSet, ids: DataFrame) -> int:
    """How many of the images are tombstones."""
    return count_rows(tables, IMAGES.name, ids, where=_is_erased())


def remove_tombstones(tables: TableSet, ids: DataFrame, *, lease: Lease) -> int:
    """Let later manifests bring these images back; how many tombstones went."""
    return delete_rows(
        tables, IMAGES.name, ids, note="mumic erase allow again", lease=lease, where=_is_erased()
    )


def erased_ids(tables: TableSet) -> DataFrame:
    """The image_id of every tombstone."""
    return tables.read(IMAGES.name).where(_is_erased()).select("image_id")


def delete_leftovers(tables: TableSet, *, lease: Lease) -> dict[str, int]:
    """Delete what there is of erased images: staged since, or left by an erasure that was cut off.

    Returns:
        Rows deleted by table.
    """
    ids = erased_ids(tables)
    if ids.isEmpty():
        return {}
    note = "mumic erase leftovers"
    deleted = {
        table.name: delete_rows(tables, table.name, ids, note=note, lease=lease)
        for table in HOLDING
    }
    return {name: rows for name, rows in deleted.items() if rows}


def _is_erased() -> Column:
    return F.col("status") == "erased"


def count_rows(tables: TableSet, name: str, ids: DataFrame, *, where: Column | None = None) -> int:
    """Rows of a table about these images."""
    return tables.read(name).where(_or_all(where)).join(ids, "image_id", "left_semi").count()


def delete_rows(
    tables: TableSet,
    name: str,
    ids: DataFrame,
    *,
    note: str,
    lease: Lease,
    where: Column | None = None,
) -> int:
    """Delete the rows of a table about these images; no commit where there are none.

    Args:
        tables: The table set.
        name: A table with a column image_id.
        ids: One column image_id, each id once.
        note: Kept as the commit's userMetadata.
        lease: Of the table set.
        where: Only these rows. Names no image, since it is kept in the table's log.

    Returns:
        Rows deleted.
    """
    found = count_rows(tables, name, ids, where=where)
    if found:
        same_image = F.col("t.image_id") == F.col("s.image_id")
        with one_commit(tables, name, note=note, lease=lease):
            (
                tables.delta(name)
                .alias("t")
                .merge(ids.alias("s"), same_image & _or_all(where))
                .whenMatchedDelete()
                .execute()
            )
    return found


def _or_all(where: Column | None) -> Column:
    return F.lit(True) if where is None else where
