"""MERGE by key: the only way published tables change.

Appends do not conflict with each other, so two runs would both insert; a MERGE by key cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.commit import one_commit
from pipeline.tables.lease import Lease
from pipeline.tables.schemas import TableDefinition
from pipeline.tables.storage_errors import storage_errors
from pipeline.tables.store import TableSet


def merge_rows(
    tables: TableSet,
    table: TableDefinition,
    source: DataFrame,
    *,
    values: tuple[str, ...],
    note: str,
    lease: Lease,
    all_new: bool = False,
) -> int:
    """MERGE by the table's key; rows whose values stay the same are not written.

    Args:
        tables: The table set.
        table: The target.
        source: The target's columns and, where rows shall go, a boolean ``gone``; one row for each
            key. Not persisted: Delta keeps it itself while it merges, and refuses one that is.
        values: Columns whose change is a change.
        note: Kept as the commit's userMetadata.
        lease: Of the table set; checked straight before the commit.
        all_new: No row of these keys stands, but for those that the same publish wrote before it
            was cut off. Then a MERGE that only inserts does, which rewrites no file.

    Returns:
        Number of rows that were inserted.
    """
    if "gone" not in source.columns:
        source = source.withColumn("gone", F.lit(False))
    same_key = " AND ".join(f"t.{name} = s.{name}" for name in table.key)
    same = " AND ".join(f"t.{name} <=> s.{name}" for name in values)
    row: dict[str, str | Column] = {name: f"s.{name}" for name in table.columns.names}
    with storage_errors(f"merging into {tables.place(table.name)}"):
        merge = tables.delta(table.name).alias("t").merge(source.alias("s"), same_key)
        if not all_new:
            merge = merge.whenMatchedDelete("s.gone").whenMatchedUpdate(f"NOT ({same})", row)
        merge = merge.whenNotMatchedInsert("NOT s.gone", row)
        with one_commit(tables, table.name, note=note, lease=lease):
            told = merge.execute().collect()[0]
    return int(told["num_inserted_rows"])


@contextmanager
def kept(frame: DataFrame) -> Iterator[DataFrame]:
    """Compute a frame once and keep it while the block runs."""
    frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield frame
    finally:
        frame.unpersist()
