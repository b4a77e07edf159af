"""Migration of tables that an older version of the product made.

A migration adds what its version added; nothing is removed and no row is rewritten. Each step looks
whether it was made before and is one commit, and the table's schema version is written last: what
was cut off is finished by migrating again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyspark.sql.types import StructField, StructType

from pipeline.errors import SchemaVersionError
from pipeline.tables.commit import one_commit, sql_text
from pipeline.tables.create import SCHEMA_VERSION_PROPERTY, validate_schema_version
from pipeline.tables.lease import Lease
from pipeline.tables.schemas import SCHEMA_VERSION, TableDefinition
from pipeline.tables.store import TableSet


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What a schema version added to the one before.

    Attributes:
        columns: New columns by table, in the order of the definition. All of them may be null.
    """

    columns: Mapping[str, tuple[str, ...]]


MIGRATIONS = {
    1: Migration(
        columns={
            "images": ("refetchable", "embedding_seq"),
            "tagging_results": ("as_of_seq", "run_as_of", "embedding_seq", "refetchable"),
            "tagging_runs": ("backfill_id", "audit"),
        }
    ),
}
"""By the schema version they start from."""


def outdated_tables(tables: TableSet, there: Iterable[str]) -> dict[str, int]:
    """Schema versions of the tables that are older than this product's, by name.

    Args:
        tables: The table set.
        there: Names of the tables that exist.

    Raises:
        SchemaVersionError: A table is newer, was not made by this product, or is older than all
            migrations.
    """
    versions = {name: read_schema_version(tables, name) for name in there}
    return {name: version for name, version in versions.items() if version != SCHEMA_VERSION}


def read_schema_version(tables: TableSet, name: str) -> int:
    """The schema version of a table that can be used or migrated.

    Raises:
        SchemaVersionError: It can be neither.
    """
    found = tables.properties(name).get(SCHEMA_VERSION_PROPERTY)
    if found is None or int(found) not in MIGRATIONS:
        validate_schema_version(tables, name)
    return SCHEMA_VERSION if found is None else int(found)


def migrate_table(tables: TableSet, definition: TableDefinition, lease: Lease) -> int:
    """Bring one table to the schema version of this product.

    Returns:
        The schema version it had.

    Raises:
        SchemaVersionError: It is newer, was not made by this product, or no migration starts there.
        LeaseError: The lease was lost.
        TablesError: The storage refuses.
    """
    before = read_schema_version(tables, definition.name)
    for version in range(before, SCHEMA_VERSION):
        if version not in MIGRATIONS:
            raise SchemaVersionError(
                "there is no migration from the table's schema version",
                where=tables.place(definition.name),
                got=version,
            )
        _add_columns(tables, definition, MIGRATIONS[version], lease)
    if before != SCHEMA_VERSION:
        _renew_comments(tables, definition, lease)
        change = f"SET TBLPROPERTIES ('{SCHEMA_VERSION_PROPERTY}' = '{SCHEMA_VERSION}')"
        _alter(tables, definition.name, change, lease)
    return before


def _add_columns(
    tables: TableSet, definition: TableDefinition, migration: Migration, lease: Lease
) -> None:
    """Add the columns that are missing, in one commit, each where the definition has it."""
    there = set(tables.read(definition.name).columns)
    wanted = [name for name in migration.columns.get(definition.name, ()) if name not in there]
    added: dict[str, str] = {}
    for column in definition.columns:
        if column.name in wanted:
            known = there | set(added)
            added[column.name] = _declaration(column, definition.columns, known)
    if added:
        _alter(tables, definition.name, f"ADD COLUMNS ({', '.join(added.values())})", lease)


def _declaration(column: StructField, columns: StructType, known: set[str]) -> str:
    """A new column with its comment, behind the nearest one before it that is there."""
    place = columns.names.index(column.name)
    before = next(name for name in reversed(columns.names[:place]) if name in known)
    kind, comment = column.dataType.simpleString(), sql_text(column.metadata["comment"])
    return f"{column.name} {kind} COMMENT {comment} AFTER {before}"


def _renew_comments(tables: TableSet, definition: TableDefinition, lease: Lease) -> None:
    standing = tables.read(definition.name).schema
    changes = [
        f"{column.name} COMMENT {sql_text(column.metadata['comment'])}"
        for column in definition.columns
        if standing[column.name].metadata.get("comment") != column.metadata["comment"]
    ]
    if changes:
        _alter(tables, definition.name, f"ALTER COLUMN {', '.join(changes)}", lease)


def _alter(tables: TableSet, name: str, change: str, lease: Lease) -> None:
    with one_commit(tables, name, note=f"mumic schema version {SCHEMA_VERSION}", lease=lease):
        tables.spark.sql(f"ALTER TABLE {tables.sql_name(name)} {change}")
