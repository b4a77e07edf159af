"""For consumers: what changed since a version, and all tables at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.errors import TablesError
from pipeline.tables.schemas import TABLES
from pipeline.tables.store import TableSet

_FED = {table.name for table in TABLES if table.change_data_feed}


def read_changes(
    tables: TableSet, table: str, *, since: int, until: int | None = None
) -> DataFrame:
    """What changed in a table after a version that a consumer has seen.

    Looks into every file of the changes once, so that history that is gone is told here and not in
    the middle of the consumer's work.

    Args:
        tables: The table set.
        table: ``images`` or ``image_tags``.
        since: Version that was seen, such as ``table_versions`` of the run before.
        until: Last version to tell of. Default: the latest one.

    Returns:
        The table's columns, and _change_type (``insert``, ``delete``, ``update_preimage``,
        ``update_postimage``), _commit_version, _commit_timestamp. No rows where nothing changed.

    Raises:
        TablesError: The table has no change data feed, a version does not exist, or its history
            was vacuumed.
    """
    if table not in _FED:
        raise TablesError(
            "the table has no change data feed",
            where=table,
            expected=" or ".join(sorted(_FED)),
            todo="compare two versions of it with read_at",
        )
    latest = tables.version(table)
    last = latest if until is None else until
    if not 0 <= since <= last <= latest:
        raise TablesError(
            "there are no such versions",
            where=tables.place(table),
            expected=f"0 <= since <= until <= {latest}, the latest version",
            got=f"since {since}, until {last}",
        )
    if since == last:  # Delta refuses to start behind the last version
        return _no_changes(tables.read(table))
    feed = tables.spark.read.options(
        readChangeFeed="true", startingVersion=since + 1, endingVersion=last
    )
    try:
        changes = tables.load(table, feed)
        changes.count()
    except (Py4JJavaError, PySparkException) as error:
        raise TablesError(
            "the changes are no longer kept",
            where=f"{tables.place(table)}, versions {since + 1} to {last}",
            got=_first_line(error),
            todo="read the whole table and go on from its version; VACUUM removes changes",
        ) from error
    return changes


def read_at(tables: TableSet, table_versions: Mapping[str, int]) -> dict[str, DataFrame]:
    """Tables as they were at one moment.

    Args:
        tables: The table set.
        table_versions: Version by table, such as ``table_versions`` of a published run.

    Raises:
        TablesError: A table is unknown, or its version is no longer kept.
    """
    known = {table.name for table in TABLES}
    unknown = sorted(table_versions.keys() - known)
    if unknown:
        raise TablesError("there are no such tables", got=", ".join(unknown))
    frames = {}
    for name, version in table_versions.items():
        try:
            frames[name] = tables.read(name, version=version)
        except (Py4JJavaError, PySparkException) as error:
            raise TablesError(
                "the version is not kept",
                where=f"{tables.place(name)}, version {version}",
                got=_first_line(error),
                todo="take the versions of a later run",
            ) from error
    return frames


def _no_changes(rows: DataFrame) -> DataFrame:
    """The columns of the feed without a row."""
    told = {"_change_type": "string", "_commit_version": "bigint", "_commit_timestamp": "timestamp"}
    return rows.where(F.lit(False)).select(
        "*", *(F.lit(None).cast(kind).alias(name) for name, kind in told.items())
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
