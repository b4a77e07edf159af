"""Creating the tables, one commit each, and refusing those of another schema version."""

from __future__ import annotations

from pipeline.errors import SchemaVersionError
from pipeline.few_rows import few_rows
from pipeline.tables.last_commit import validate_last_commits
from pipeline.tables.schemas import SCHEMA_VERSION, TABLES, TableDefinition
from pipeline.tables.storage_errors import storage_errors
from pipeline.tables.store import TableSet
from pipeline.tables.views import create_views

SCHEMA_VERSION_PROPERTY = "mumic.schema_version"


def existing_tables(tables: TableSet) -> set[str]:
    """Names of the tables that were created.

    Raises:
        SchemaVersionError: One of them has another schema version than this product writes.
        TablesError: The last commit of one is damaged.
    """
    validate_last_commits(tables)
    with few_rows(tables.spark):
        existing = {table.name for table in TABLES if tables.exists(table.name)}
        for name in sorted(existing):
            validate_schema_version(tables, name)
    return existing


def create_tables(tables: TableSet, *, existing: set[str]) -> None:
    """Create the tables that do not exist yet and, in a catalog, the views beside them.

    Args:
        tables: The table set.
        existing: Names of those that do, from :func:`existing_tables`.

    Raises:
        TablesError: The storage refuses.
    """
    for definition in TABLES:
        if definition.name not in existing:
            create_table(tables, definition)
        # Before the next table: where the last one exists, no view is missing.
        create_views(tables, over=definition.name)


def create_table(tables: TableSet, definition: TableDefinition) -> None:
    """Create one table: columns, comments, constraints and properties in one commit."""
    properties = {
        SCHEMA_VERSION_PROPERTY: str(SCHEMA_VERSION),
        # Readers without Spark (delta-rs, DuckDB) read a table with deletion vectors only in part
        # of their interfaces.
        "delta.enableDeletionVectors": "false",
        "delta.enableChangeDataFeed": str(definition.change_data_feed).lower(),
        **{f"delta.constraints.{name}": check for name, check in definition.checks.items()},
    }
    if definition.found_by:
        properties["delta.dataSkippingStatsColumns"] = ",".join(definition.found_by)
    builder = (
        tables.builder(definition.name).comment(definition.comment).addColumns(definition.columns)
    )
    if definition.partitioned_by:
        builder = builder.partitionedBy(*definition.partitioned_by)
    for name, value in properties.items():
        builder = builder.property(name, value)
    tables.clear_half_made(definition.name)
    with storage_errors(f"creating {tables.place(definition.name)}"):
        builder.execute()


def validate_schema_version(tables: TableSet, name: str) -> None:
    """Refuse a table that this product does not know how to write.

    Raises:
        SchemaVersionError: It is newer, older, or was not made by this product.
    """
    found = tables.properties(name).get(SCHEMA_VERSION_PROPERTY)
    if found == str(SCHEMA_VERSION):
        return
    if found is None:
        todo = (
            "choose another tables.location or tables.schema: mumic-spark did not make this table"
        )
    elif int(found) > SCHEMA_VERSION:
        todo = "use the newer mumic-spark that wrote the table"
    else:
        todo = "run maintain_tables, which migrates it"
    raise SchemaVersionError(
        "the table has another schema version",
        where=tables.place(name),
        expected=SCHEMA_VERSION,
        got=found,
        todo=todo,
    )
