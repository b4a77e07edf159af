"""Every SQL statement of the documents fits the tables, the views and the functions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StringType, StructField, StructType, TimestampType

from pipeline.config import ModelConfig
from pipeline.tables.schemas import TABLES
from pipeline.tables.views import VIEWS
from udfs.functions import COSINE_SIMILARITY, make_functions
from udfs.settings import TaggerSettings

ROOT = Path(__file__).parents[2]
_CHANGE = [
    StructField("_change_type", StringType()),
    StructField("_commit_version", LongType()),
    StructField("_commit_timestamp", TimestampType()),
]
# The feed reads a table when a statement is analysed; a view of its columns stands in for it.
_FEED = re.compile(r"table_changes_by_path\('[^']*/(\w+)', \d+, \d+\)")


def statements() -> list[tuple[str, str]]:
    """Name and text of each statement in the documents."""
    found = []
    for document in (ROOT / "README.md", ROOT / "docs" / "tables.md"):
        text = document.read_text(encoding="utf-8")
        fenced = re.findall(r"^```sql\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        quoted = re.findall(r'--sql\s+(?:\\\n\s*)?"([^"]+)"', text)
        found += [
            (f"{document.name} {number}", sql) for number, sql in enumerate([*fenced, *quoted])
        ]
    return found


@pytest.fixture(scope="module")
def session(spark: SparkSession) -> SparkSession:
    """Views of the tables' columns, without a row, and the functions, without a model."""
    own = spark.newSession()
    for table in TABLES:
        own.createDataFrame([], table.columns).createOrReplaceTempView(table.name)
        changes = StructType([*table.columns.fields, *_CHANGE])
        own.createDataFrame([], changes).createOrReplaceTempView(f"changes_of_{table.name}")
    manifest = "image_id string, version string, updated_at timestamp"
    own.createDataFrame([], manifest).createOrReplaceTempView("manifest")
    for name, view in VIEWS.items():
        own.sql(view.over(view.table)).createOrReplaceTempView(name)
    own.sql(COSINE_SIMILARITY)
    settings = TaggerSettings(
        model=ModelConfig(uri="/bundle"), model_version="m", taxonomy_version="t"
    )
    for name, function in make_functions(settings).items():
        own.udf.register(name, function)
    return own


@pytest.mark.parametrize("sql", [pytest.param(sql, id=name) for name, sql in statements()])
def test_a_statement_of_the_documents_fits_the_tables(session: SparkSession, sql: str) -> None:
    assert session.sql(_FEED.sub(r"changes_of_\1", sql)).columns


def test_a_statement_that_does_not_fit_is_found(session: SparkSession) -> None:
    with pytest.raises(AnalysisException):
        session.sql("SELECT label FROM image_tags WHERE tag = 'pool'")


def test_the_documents_have_statements() -> None:
    names = [name for name, _ in statements()]

    assert sum(name.startswith("README") for name in names) > 5
    assert sum(name.startswith("tables") for name in names) > 5
