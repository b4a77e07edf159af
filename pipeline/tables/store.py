"""The table set: where each table is, how it is read at a version, appended to and merged into.

Tables are folders of one location, or names in a schema of a catalog; nothing outside of this
module needs to know which. Knows nothing of tagging. Every write is one Delta commit.
"""

from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from delta.tables import DeltaTable, DeltaTableBuilder
from pyspark import StorageLevel
from pyspark.sql import DataFrame, DataFrameReader, SparkSession

from pipeline.config import TablesConfig
from pipeline.errors import ConfigurationError, TablesError
from pipeline.storage import absolute, local_path
from pipeline.tables.commits import commit_lock
from pipeline.tables.schemas import TABLES
from pipeline.tables.storage_errors import storage_errors

COMMIT_FILE = re.compile(r"\d{20}\.json")
"""Name of a commit in a table's log."""


@dataclass(frozen=True)
class TableSet:
    """The tables of one catalogue, in one of two homes.

    Attributes:
        spark: Session with Delta configured.
        location: Folder that holds one folder for each table. A plain path is made absolute: some
            of Delta's statements take a relative one for the name of a table. Not used where a
            schema is named.
        schema: Schema of a catalog that holds the tables, such as ``tagging`` or ``main.tagging``.
    """

    spark: SparkSession
    location: str | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "schema", quoted(self.schema))
        elif self.location is not None:
            if "`" in self.location:
                raise ConfigurationError(
                    "tables.location has a backtick in it: Delta takes it for the end of a name",
                    where=self.location,
                    todo="choose a place without",
                )
            object.__setattr__(self, "location", absolute(self.location))
        else:
            raise ConfigurationError("the tables have no place", expected=_PLACES)

    @property
    def home(self) -> str:
        """The folder or the schema, for messages."""
        return f"schema {self.schema}" if self.schema is not None else str(self.location)

    def place(self, name: str) -> str:
        """Where a table is, for messages: its folder or its name."""
        if self.schema is not None:
            return self._name(name)
        return self._folder(name)

    def sql_name(self, name: str) -> str:
        """A table as SQL statements name it."""
        if self.schema is not None:
            return self._name(name)
        return f"delta.`{self._folder(name)}`"

    def path(self, name: str) -> str:
        """Folder of a table; of one in a catalog it must exist."""
        if self.schema is None:
            return self._folder(name)
        with storage_errors(f"looking for {self.place(name)}"):
            detail = self.delta(name).detail().select("location").collect()
        return str(detail[0]["location"])

    @cached_property
    def local_folder(self) -> Path | None:
        """Folder of the table set where it is on this machine: the home of its locks."""
        if self.schema is None:
            return local_path(str(self.location))
        with storage_errors(f"looking for {self.home}"):
            rows = self.spark.sql(f"DESCRIBE SCHEMA {self.schema}").collect()
        told = {row["info_name"].lower(): row["info_value"] for row in rows}
        location = told.get("location")
        return local_path(location) if location else None

    def in_new_session(self) -> TableSet:
        """The same tables through a session with settings of its own."""
        return replace(self, spark=self.spark.newSession())

    def exists(self, name: str) -> bool:
        """Whether the table was created."""
        with storage_errors(f"looking for {self.place(name)}"):
            if self.schema is not None:
                return self.spark.catalog.tableExists(self._name(name))
            return bool(DeltaTable.isDeltaTable(self.spark, self._folder(name)))

    def builder(self, name: str) -> DeltaTableBuilder:
        """What creates the table unless it exists."""
        builder = DeltaTable.createIfNotExists(self.spark)
        if self.schema is not None:
            return builder.tableName(self._name(name))
        return builder.location(self._folder(name))

    def clear_half_made(self, name: str) -> None:
        """Remove what a kill left of creating the table: a log without a commit, and nothing else.

        Delta takes it for neither a table nor a free place. Only on this machine: object stores
        have no folders without files. Not in a catalog, where the folder is the catalog's.
        """
        folder = None if self.schema is not None else local_path(self._folder(name))
        if folder is None or not folder.is_dir():
            return
        if [entry.name for entry in folder.iterdir()] != ["_delta_log"]:
            return
        log = (folder / "_delta_log").iterdir()
        if not any(COMMIT_FILE.fullmatch(entry.name) for entry in log):
            shutil.rmtree(folder)

    def delta(self, name: str) -> DeltaTable:
        """The table for MERGE, history and detail."""
        if self.schema is not None:
            return DeltaTable.forName(self.spark, self._name(name))
        return DeltaTable.forPath(self.spark, self._folder(name))

    def read(self, name: str, *, version: int | None = None) -> DataFrame:
        """The table's rows, at its latest version or at one that stays the same."""
        reader = self.spark.read
        return self.load(name, reader if version is None else reader.option("versionAsOf", version))

    def load(self, name: str, reader: DataFrameReader) -> DataFrame:
        """The table through a reader with options of its own."""
        if self.schema is not None:
            return reader.format("delta").table(self._name(name))
        return reader.format("delta").load(self._folder(name))

    def version(self, name: str) -> int:
        """Number of the table's latest commit."""
        latest = self.delta(name).history(1).select("version").first()
        if latest is None:
            raise TablesError("the table has no history", where=self.place(name))
        return int(latest["version"])

    def size_bytes(self, name: str) -> int:
        """Bytes of the table's files at its latest version."""
        detail = self.delta(name).detail().select("sizeInBytes").collect()
        return int(detail[0]["sizeInBytes"])

    def versions(self) -> dict[str, int]:
        """Number of the latest commit of every table."""
        return {table.name: self.version(table.name) for table in TABLES}

    def properties(self, name: str) -> dict[str, str]:
        """The table's properties. Reads its metadata only, not its list of files."""
        with storage_errors(f"opening {self.place(name)}"):
            rows = self.spark.sql(f"SHOW TBLPROPERTIES {self.sql_name(name)}").collect()
        return {row["key"]: row["value"] for row in rows}

    def committing(self) -> AbstractContextManager[None]:
        """The lock of a commit that others may make at the same moment, in other processes.

        For commits that are not made under the lease, and those to tables that others append to.
        Where Delta's log store keeps commits apart, nothing is locked.
        """
        folder = self.local_folder
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
        with storage_errors(f"appending to {self.place(name)}"):
            if computed or self.local_folder is None:
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
            if self.schema is not None:
                writer.saveAsTable(self._name(name))
            else:
                writer.save(self._folder(name))

    def _folder(self, name: str) -> str:
        return f"{str(self.location).rstrip('/')}/{name}"

    def _name(self, name: str) -> str:
        return f"{self.schema}.`{name}`"


_PLACES = "tables.location, a folder, or tables.schema, a schema of a catalog"


def open_tables(spark: SparkSession, config: TablesConfig) -> TableSet:
    """The table set of a configuration; its schema, where it names one, must exist.

    Raises:
        ConfigurationError: The configuration names no place, or the session has no metastore.
        TablesError: The schema does not exist.
    """
    if config.schema is None:
        return TableSet(spark, config.location)
    tables = TableSet(spark, schema=config.schema)
    in_catalog = tables.schema is not None and "." in config.schema
    if not in_catalog and spark.conf.get("spark.sql.catalogImplementation") == "in-memory":
        raise ConfigurationError(
            "the session keeps its catalog in memory: tables would be forgotten when it ends",
            where=f"tables.schema {config.schema}",
            todo="add to spark-submit: --conf spark.sql.catalogImplementation=hive, and name the "
            "metastore in hive-site.xml or with spark.hadoop.hive.metastore.uris",
        )
    with storage_errors(f"looking for {tables.home}"):
        exists = spark.catalog.databaseExists(str(tables.schema))
    if not exists:
        raise TablesError(
            "the schema does not exist",
            where=f"tables.schema {config.schema}",
            todo=f"create it: CREATE SCHEMA {tables.schema} LOCATION '...'",
        )
    return tables


def quoted(schema: str) -> str:
    """A schema's name for SQL, each of its parts in backticks.

    Raises:
        ConfigurationError: It names no schema.
    """
    parts = [part.removeprefix("`").removesuffix("`") for part in schema.split(".")]
    if not all(parts) or any("`" in part for part in parts):
        raise ConfigurationError(
            "tables.schema names no schema", expected="SCHEMA or CATALOG.SCHEMA", got=schema
        )
    return ".".join(f"`{part}`" for part in parts)
