"""Tables of an older schema version: migrated, they are those of a fresh table set."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from fake_catalogue import HeldLease
from pyspark.sql import SparkSession
from pyspark.sql.types import StructField, StructType

import pipeline.tables.migrate as migrating
from pipeline.errors import LeaseError, SchemaVersionError
from pipeline.tables.create import create_table, existing_tables
from pipeline.tables.lease import Lease
from pipeline.tables.migrate import MIGRATIONS, migrate_table, outdated_tables
from pipeline.tables.schemas import (
    IMAGES,
    LABELS,
    SCHEMA_VERSION,
    TAGGING_RESULTS,
    TAGGING_RUNS,
    TableDefinition,
)
from pipeline.tables.store import TableSet

AT = datetime(2026, 3, 1, tzinfo=UTC)
OLD_COMMENTS = {
    "as_of": "moment of the catalogue the run speaks for",
    "origin": "model, reused or manifest",
}
ROWS: dict[str, dict[str, Any]] = {
    "images": {
        "image_id": "a",
        "source": "hotels",
        "status": "failed",
        "as_of": AT,
        "as_of_seq": 1,
        "attempts": 1,
        "reason": "corrupt",
    },
    "tagging_results": {
        "run_id": "r",
        "image_id": "a",
        "source": "hotels",
        "status": "tagged",
        "origin": "model",
        "as_of": AT,
        "run_seq": 1,
        "embedding": [0.5, 0.25],
    },
    "tagging_runs": {
        "run_id": "r",
        "change": 1,
        "job": "tag_nightly",
        "state": "started",
        "as_of": AT,
        "product_version": "0.1",
        "at": AT,
    },
}
MIGRATED = (IMAGES, TAGGING_RESULTS, TAGGING_RUNS)


def first_definition(definition: TableDefinition) -> TableDefinition:
    """The table as schema version 1 had it."""
    added = MIGRATIONS[1].columns[definition.name]
    columns = [
        StructField(column.name, column.dataType, column.nullable, comment(definition, column))
        for column in definition.columns
        if column.name not in added
    ]
    return replace(definition, columns=StructType(columns))


def comment(definition: TableDefinition, column: StructField) -> dict[str, str]:
    old = OLD_COMMENTS.get(column.name) if definition is TAGGING_RESULTS else None
    return {"comment": old or column.metadata["comment"]}


def make_first(
    spark: SparkSession, folder: Path, monkeypatch: pytest.MonkeyPatch, *tables: TableDefinition
) -> TableSet:
    """A table set of schema version 1 with a row in each table."""
    made = TableSet(spark, str(folder / "tables"))
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.tables.create.SCHEMA_VERSION", 1)
        for definition in tables:
            old = first_definition(definition)
            create_table(made, old)
            row = tuple(ROWS[old.name].get(name) for name in old.columns.names)
            made.append(old.name, spark.createDataFrame([row], old.columns), commit_note="row")
    return made


def described(tables: TableSet, name: str) -> tuple[Any, ...]:
    """Columns with types, nullability and comments, and the properties, by another reader."""
    table = DeltaTable(tables.path(name))
    metadata = table.metadata()
    columns = json.loads(table.schema().to_json())["fields"]
    return columns, metadata.partition_columns, metadata.description, metadata.configuration


@pytest.fixture(scope="module")
def fresh(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> TableSet:
    tables = TableSet(spark, str(tmp_path_factory.mktemp("fresh") / "tables"))
    for definition in MIGRATED:
        create_table(tables, definition)
    return tables


def test_a_migrated_table_is_a_fresh_one_with_the_old_rows(spark, fresh, tmp_path, monkeypatch):
    tables = make_first(spark, tmp_path, monkeypatch, *MIGRATED)
    names = [definition.name for definition in MIGRATED]
    assert outdated_tables(tables, names) == dict.fromkeys(names, 1)
    with pytest.raises(SchemaVersionError, match="run maintain_tables"):
        existing_tables(tables)
    before = {d.name: DeltaTable(tables.path(d.name)).to_pyarrow_table() for d in MIGRATED}

    lease: Lease = HeldLease()
    assert [migrate_table(tables, definition, lease) for definition in MIGRATED] == [1, 1, 1]

    assert existing_tables(tables) == {definition.name for definition in MIGRATED}
    for definition in MIGRATED:
        assert described(tables, definition.name) == described(fresh, definition.name)
        rows = DeltaTable(tables.path(definition.name)).to_pyarrow_table()
        assert rows.schema.names == [*definition.columns.names]
        added = MIGRATIONS[1].columns[definition.name]
        assert rows.drop_columns(list(added)).to_pylist() == before[definition.name].to_pylist()
        assert {value for name in added for value in rows[name].to_pylist()} == {None}

    versions = {d.name: DeltaTable(tables.path(d.name)).version() for d in MIGRATED}
    assert [migrate_table(tables, d, lease) for d in MIGRATED] == [SCHEMA_VERSION] * 3
    assert {d.name: DeltaTable(tables.path(d.name)).version() for d in MIGRATED} == versions


def test_a_migration_cut_off_at_any_step_is_finished_by_the_next(
    spark, fresh, tmp_path, monkeypatch
):
    tables = make_first(spark, tmp_path, monkeypatch, TAGGING_RESULTS)
    steps = 0
    for _ in range(9):  # each time one commit more than the time before
        try:
            migrate_table(tables, TAGGING_RESULTS, HeldLease(1))
        except LeaseError:
            steps += 1
            assert outdated_tables(tables, ["tagging_results"]) == {"tagging_results": 1}
        else:
            break
    assert steps == 2  # columns, comments; the version is the third
    assert described(tables, "tagging_results") == described(fresh, "tagging_results")
    assert len(DeltaTable(tables.path("tagging_results")).to_pyarrow_table()) == 1


def test_tables_that_no_migration_knows_are_refused(spark, tmp_path, monkeypatch):
    tables = TableSet(spark, str(tmp_path / "tables"))
    for version, message in ((99, "use the newer"), (0, "schema version")):
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.tables.create.SCHEMA_VERSION", version)
            create_table(TableSet(spark, f"{tables.location}-{version}"), LABELS)
        with pytest.raises(SchemaVersionError, match=message):
            migrate_table(TableSet(spark, f"{tables.location}-{version}"), LABELS, HeldLease())


def test_every_schema_version_has_a_migration_and_its_columns_exist():
    assert set(migrating.MIGRATIONS) == set(range(1, SCHEMA_VERSION))
    definitions = {definition.name: definition for definition in MIGRATED}
    for migration in migrating.MIGRATIONS.values():
        for name, columns in migration.columns.items():
            added = [column for column in definitions[name].columns if column.name in columns]
            assert len(added) == len(columns)
            assert all(column.nullable for column in added)
