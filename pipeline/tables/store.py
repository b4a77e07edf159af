"""The table set: where each table is, how it is read at a version, appended to and merged into.

Knows nothing of tagging. Every write is one Delta commit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipeline.errors import TablesError
from pipeline.storage import absolute, local_path
from pipeline.tables.commits import commit_lock
from pipeline.tables.schemas import TABLES

_COMMIT = re.compile(r"\d{20}\.json")


@dataclass(frozen=True)
class TableSet:
    """The tables of one catalogue.

    Attributes:
        spark: Session with Delta configured.
        location: Folder that holds one folder for each table. A plain path is made absolute: some
            of Delta's statements take a relative one for the name of a table.
    """

    spark: SparkSession
    location: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "location", absolute(self.location))

    def path(self, name: str) -> str:
        """Folder of a table."""
        return f"{self.location.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the table was created."""
        with storage_errors(f"looking for {self.path(name)}"):
            return bool(DeltaTable.isDeltaTable(self.spark, self.path(name)))

    def clear_half_made(self, name: str) -> None:
        """Remove what a kill left of creating the table: a log without a commit, and nothing else.

        Delta takes it for neither a table nor a free place. Only on this machine: object stores
        have no folders without files.
        """
        folder = local_path(self.path(name))
        if folder is None or not folder.is_dir():
            return
        if [entry.name for entry in folder.iterdir()] != ["_delta_log"]:
            return
        log = (folder / "_delta_log").iterdir()
        if not any(_COMMIT.fullmatch(entry.name) for entry in log):
            shutil.rmtree(folder)

    def delta(self, name: str) -> DeltaTable:
        """The table for MERGE, history and detail."""
        return DeltaTable.forPath(self.spark, self.path(name))

    def read(self, name: str, *, version: int | None = None) -> DataFrame:
        """The table's rows, at its latest version or at one that stays the same."""
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.path(name))

    def version(self, name: str) -> int:
        """Number of the table's latest commit."""
        latest = self.delta(name).history(1).select("version").first()
        if latest is None:
            raise TablesError("the table has no history", where=self.path(name))
        return int(latest["version"])

    def versions(self) -> dict[str, int]:
        """Number of the latest commit of every table."""
        return {table.name: self.version(table.name) for table in TABLES}

    def properties(self, name: str) -> dict[str, str]:
        """The table's properties. Reads its metadata only, not its list of files."""
        path = self.path(name).replace("`", "``")
        with storage_errors(f"opening {self.path(name)}"):
            rows = self.spark.sql(f"SHOW TBLPROPERTIES delta.`{path}`").collect()
        return {row["key"]: row["value"] for row in rows}

    def committing(self) -> AbstractContextManager[None]:
        """What a commit holds that others may be beside: one that is not made under the lease, or
        one to a table that others append to. Where Delta's log store keeps commits apart, nothing.
        """
        folder = local_path(self.location)
        return nullcontext() if folder is None else commit_lock(folder)

    def append(
        self, name: str, rows: DataFrame, *, commit_note: str, computed: bool = False
    ) -> None:
        """Append rows in one commit.

        Args:
            name: The table.
            rows: Its columns, by name.
            commit_note: Kept as the commit's userMetadata.
            computed: The rows are there already, or made in no time. Others are computed before
                the lock of commits is taken, since Spark computes and commits in one step and
                whoever commits meanwhile would wait for it.
        """
        with storage_errors(f"appending to {self.path(name)}"):
            if computed or local_path(self.location) is None:
                self._append(name, rows, commit_note)
                return
            rows.persist(StorageLevel.MEMORY_AND_DISK)
            try:
                rows.count()
                self._append(name, rows, commit_note)
            finally:
                rows.unpersist()

    def _append(self, name: str, rows: DataFrame, commit_note: str) -> None:
        writer = rows.write.format("delta").mode("append").option("userMetadata", commit_note)
        with self.committing():
            writer.save(self.path(name))


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Tell errors of the storage in one line.

    Errors raised by Python code on executors are left as they are: they are not the storage's.
    """
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        cause = storage_cause(error)
        if cause is None:
            raise
        raise TablesError(
            "the storage refused",
            where=doing,
            got=cause,
            todo="check that the place exists, is readable and writable, and has space left",
        ) from error


_STORAGE_EXCEPTIONS = (
    "java.io.FileNotFoundException",
    "java.io.IOException",
    "java.io.UncheckedIOException",
    "java.nio.file.",
    "java.nio.file.AccessDeniedException",
    "org.apache.hadoop.fs.ParentNotDirectoryException",
    "org.apache.hadoop.fs.UnsupportedFileSystemException",
    "org.apache.hadoop.security.AccessControlException",
    "Mkdirs failed",
    "java.lang.ClassNotFoundException",  # a file system whose jar is not there, such as s3a
    "DELTA_CANNOT_CREATE_LOG_PATH",
    "DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_MISSING_DELTA_TABLE",
    "DELTA_STATE_RECOVER_ERROR",
    "DELTA_TABLE_NOT_FOUND",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "DELTA_VERSIONS_NOT_CONTIGUOUS",
)


def storage_cause(error: BaseException) -> str | None:
    """The line of an error's text that names a storage exception, if one does."""
    text = str(error)
    if "PythonException" in text:
        return None
    for line in text.splitlines():
        if any(name in line for name in _STORAGE_EXCEPTIONS):
            return line.strip().removeprefix(": ")[:300]
    return None
