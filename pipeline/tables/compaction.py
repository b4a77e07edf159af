"""Small files into larger ones, and old files out.

Sorted by Z-order, not by Delta's liquid clustering. Both serve queries by several columns alike;
what differs speaks for Z-order here. Liquid clustering needs two more writer features in each table
(clustering, domain metadata), so that other engines that write refuse it, and it has to be in the
table from its creation on, or be migrated in; Z-order is a matter of this job alone. MERGE on a
liquid-clustered table conflicts with any added file, as on every table of ours without partitions:
the lease keeps them apart either way. Liquid clustering would only be cheaper, since it sorts what
is new; so tables are sorted anew only where they changed, and ``cluster`` can be left for weekends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyspark.sql import functions as F  # noqa: N812

from pipeline.spark import parallelism, temporary_settings
from pipeline.tables.commit import one_commit, sql_text
from pipeline.tables.lease import Lease
from pipeline.tables.schemas import IMAGE_EMBEDDINGS, IMAGE_TAGS, IMAGES
from pipeline.tables.store import TableSet

Work = Literal["clustered", "compacted", "unchanged"]

CLUSTERED_BY = {
    # By image for MERGE and look-ups; by day, which also keeps the rows of a run together.
    IMAGES.name: ("image_id", "tagged_at"),
    # Most questions name a label, or a label and a run; joins and MERGE an image.
    IMAGE_TAGS.name: ("label", "run_id", "image_id"),
    IMAGE_EMBEDDINGS.name: ("image_id",),
}

# Files of a table that is sorted. Delta's own size, 1 GiB, makes one or two files of ten million
# tags, and nothing can be skipped. Files below the least are not worth opening, files above the
# most not worth waiting for. Sizes are those before sorting: tags grow to three times as much where
# an image's stood side by side.
SORTED_FILES = 512
_LEAST_FILE_BYTES, _MOST_FILE_BYTES = 2**20, 256 * 2**20
_MAX_FILE_SIZE = "spark.databricks.delta.optimize.maxFileSize"
# Without sorting, files below it are brought together: not those that were sorted before.
_MIN_FILE_SIZE = "spark.databricks.delta.optimize.minFileSize"
# Delta ranks the values of each column in so many ranges, 1,000 by default, and mixes the bits of
# the ranks. A column of few values (labels, runs) has small ranks, which differ in their last bits
# only: files would be told apart by the image alone. With few ranges all columns count alike; so
# many for all columns together are enough for several to a file.
_RANGES = "spark.databricks.io.skipping.mdc.rangeId.max"
_CELLS = 4096

_HISTORY = 100  # commits looked at; a table with none of ours among so many is worth the work
_TIDYING = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES")
_TASKS_PER_SLOT = 4
_LISTING_TASKS = "spark.sql.sources.parallelPartitionDiscovery.parallelism"
_RETENTION_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
_VACUUM_LOGGING = "spark.databricks.delta.vacuum.logging.enabled"


def is_worth_compacting(tables: TableSet, name: str, *, cluster: bool) -> Work:
    """What :func:`compact` would do; ``unchanged`` where nothing was written since last time."""
    cluster = cluster and name in CLUSTERED_BY
    work: Work = "clustered" if cluster else "compacted"
    commits = tables.delta(name).history(_HISTORY).select("operation", "operationParameters")
    for commit in commits.collect():
        if commit["operation"] == "OPTIMIZE":
            was_clustered = commit["operationParameters"].get("zOrderBy", "[]") != "[]"
            if was_clustered or not cluster:
                return "unchanged"
        elif commit["operation"] not in _TIDYING:
            return "unchanged" if commit["operation"] == "CREATE TABLE" else work
    return work


def compact(
    tables: TableSet, name: str, *, cluster: bool, runs: Sequence[str] | None, lease: Lease
) -> None:
    """Bring the small files of a table together, or sort it anew.

    Args:
        tables: The table set.
        name: The table.
        cluster: Sort the tables of ``CLUSTERED_BY``.
        runs: Of a table partitioned by run: only the partitions of these.
        lease: Of the table set.

    Raises:
        LeaseError: The lease was lost.
        TablesError: The storage refuses.
    """
    note = "mumic optimize"
    if runs is not None:
        # A commit for each run: what has to wait for one waits for a run's files, not for all.
        for run_id in _runs_in_many_files(tables, name, runs):
            partition = tables.delta(name).optimize().where(f"run_id = {sql_text(run_id)}")
            with one_commit(tables, name, note=note, lease=lease):
                partition.executeCompaction()
        return
    columns = CLUSTERED_BY.get(name, ())
    settings: dict[str, str] = {}
    if columns:
        size = tables.size_bytes(name)
        file_bytes = sorted_file_bytes(size)
        settings = {_MAX_FILE_SIZE: str(file_bytes), _MIN_FILE_SIZE: str(file_bytes // 2)}
    if len(columns) > 1:
        settings[_RANGES] = str(round(_CELLS ** (1 / len(columns))))
    optimize = tables.delta(name).optimize()
    with (
        temporary_settings(tables.spark, settings),
        one_commit(tables, name, note=note, lease=lease),
    ):
        if cluster and columns:
            optimize.executeZOrderBy(*columns)
        else:
            optimize.executeCompaction()


def sorted_file_bytes(table_bytes: int) -> int:
    """The size of the files of a sorted table."""
    return min(max(table_bytes // SORTED_FILES, _LEAST_FILE_BYTES), _MOST_FILE_BYTES)


def _runs_in_many_files(tables: TableSet, name: str, runs: Sequence[str]) -> list[str]:
    """Those of the runs whose facts are in more than one file."""
    files = (
        tables.read(name)
        .where(F.col("run_id").isin(*runs))
        .select("run_id", F.col("_metadata.file_path").alias("file"))
    )
    counted = files.groupBy("run_id").agg(F.count_distinct("file").alias("files"))
    return sorted(row["run_id"] for row in counted.where("files > 1").collect())


def vacuum(tables: TableSet, name: str, retention_h: float, *, lease: Lease) -> int:
    """Delete the files of versions older than ``retention_h``, change data included.

    Returns:
        Files deleted.

    Raises:
        LeaseError: The lease was lost.
        TablesError: The storage refuses.
    """
    settings = {
        # The caller has checked: pipeline.tables.maintain.
        _RETENTION_CHECK: "false",
        # Says how many files it deleted, also in object stores.
        _VACUUM_LOGGING: "true",
        # The default of 10000 tasks takes minutes on few cores, however small the table.
        _LISTING_TASKS: str(_TASKS_PER_SLOT * parallelism(tables.spark)),
    }
    with (
        temporary_settings(tables.spark, settings),
        one_commit(tables, name, note="mumic vacuum", lease=lease),
    ):
        tables.delta(name).vacuum(retention_h)
    commits = tables.delta(name).history(_HISTORY).select("operation", "operationMetrics")
    for commit in commits.collect():
        if commit["operation"] == "VACUUM END":
            return int(commit["operationMetrics"].get("numDeletedFiles", 0))
    return 0
