"""One commit under the lease: what all that changes published tables has in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pyspark.sql import SparkSession

from pipeline.errors import LeaseError
from pipeline.tables.lease import Lease
from pipeline.tables.schemas import TABLES
from pipeline.tables.storage_errors import CONFLICTS, storage_errors
from pipeline.tables.store import TableSet

_COMMIT_NOTE = "spark.databricks.delta.commitInfo.userMetadata"

# Others append to them without the lease.
_APPENDED = frozenset(table.name for table in TABLES if not table.key)


@contextmanager
def one_commit(tables: TableSet, name: str, *, note: str, lease: Lease) -> Iterator[None]:
    """What the block does is one commit to the table, and made only while the lease is held.

    Args:
        tables: The table set.
        name: The table.
        note: Kept as the commit's userMetadata. No image ids: logs outlive the rows.
        lease: Of the table set.

    Raises:
        LeaseError: The lease was lost, or another job writes to the table without it.
        TablesError: The storage refuses.
    """
    with (
        commit_note(tables.spark, note),
        storage_errors(f"changing {tables.place(name)}"),
        tables.committing() if name in _APPENDED else nullcontext(),
    ):
        lease.check()
        try:
            yield
        except CONFLICTS as error:
            raise LeaseError(
                "another job changed the table at the same moment",
                where=tables.place(name),
                got=type(error).__name__,
                todo="see that no other program writes to it; start the run again: it goes on "
                "where it was",
            ) from error


@contextmanager
def commit_note(spark: SparkSession, note: str) -> Iterator[None]:
    """Commits carry the note while the block runs: a MERGE takes no options of its own."""
    spark.conf.set(_COMMIT_NOTE, note)
    try:
        yield
    finally:
        spark.conf.unset(_COMMIT_NOTE)


def sql_text(text: str) -> str:
    """A text as a literal of SQL."""
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"
