"""SQL over the tables by their names, and rows as text."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.errors import PipelineError, TablesError
from pipeline.spark import explain
from pipeline.tables.create import validate_schema_version
from pipeline.tables.last_commit import validate_last_commits
from pipeline.tables.schemas import TABLES
from pipeline.tables.store import TableSet
from pipeline.tables.views import VIEWS, register_views

_MAX_CELL_CHARS = 60


@dataclass(frozen=True)
class Answer:
    """Rows of a statement.

    Attributes:
        columns: Names; they may repeat.
        rows: Values as JSON has them, times in UTC.
        is_cut: Whether there were more.
    """

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool


def register_tables(tables: TableSet, sql: str) -> list[str]:
    """Let statements name the tables and the views of what is asked of them most.

    Tables in a schema have names, and it becomes the current one; tables in folders get temporary
    views.

    Only of those the statement mentions, since opening a table takes seconds on a cold JVM; of all
    where it mentions none (``SHOW TABLES``, a spelling error).

    Returns:
        Names of the tables and views.

    Raises:
        TablesError: There are no tables, they are of another schema version, or the last commit of
            one is damaged.
    """
    validate_last_commits(tables)
    names = [table.name for table in TABLES]
    words = set(re.findall(r"\w+", sql.lower()))
    views = {name: view.table for name, view in VIEWS.items()}
    if words & {*names, *views}:
        views = {view: table for view, table in views.items() if view in words}
        names = [name for name in names if name in words | set(views.values())]
    existing = [name for name in names if tables.exists(name)]
    if not existing and not any(tables.exists(table.name) for table in TABLES):
        raise TablesError(
            "there are no tables",
            where=tables.home,
            todo="check --tables.location or --tables.schema, or run tag_nightly first",
        )
    for name in existing:
        validate_schema_version(tables, name)
    made = [view for view, table in views.items() if table in existing]
    if tables.schema is not None:
        tables.spark.sql(f"USE {tables.schema}")
    else:
        for name in existing:
            tables.read(name).createOrReplaceTempView(name)
        register_views(tables, made)
    return sorted([*existing, *made])


def run_query(spark: SparkSession, sql: str, *, max_rows: int) -> Answer:
    """Run one statement.

    Args:
        spark: With the views registered.
        sql: One statement; a semicolon at its end is allowed.
        max_rows: Rows that are fetched at most.

    Raises:
        PipelineError: The statement is wrong or cannot be answered, or our functions failed.
    """
    with _query_errors():
        frame = spark.sql(sql.strip().rstrip(";"))
        if not frame.columns:
            return Answer([], [], is_cut=False)
        # Spark makes the values, since Python would show times in the zone of this machine. By
        # position: two columns of a join may have one name.
        places = [f"c{place}" for place in range(len(frame.columns))]
        limited = frame.toDF(*places).limit(max_rows + 1)
        written = limited.select(F.to_json(F.struct(*places), {"ignoreNullFields": "false"}))
        values = [json.loads(row[0]) for row in written.collect()]
    rows = [[value[place] for place in places] for value in values]
    return Answer(frame.columns, rows[:max_rows], is_cut=len(rows) > max_rows)


def write_answer(
    answer: Answer,
    stream: TextIO,
    *,
    format: Literal["table", "csv", "json"],  # noqa: A002
) -> None:
    """Write rows for people (table), for spreadsheets (CSV), or one JSON object a line."""
    if not answer.columns:
        return
    if format == "json":
        names = _unique(answer.columns)
        for row in answer.rows:
            line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            stream.write(f"{line}\n")
    elif format == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows([_text(value, null="") for value in row] for row in answer.rows)
    else:
        stream.write("".join(f"{line}\n" for line in _table(answer)))


def _unique(names: Sequence[str]) -> list[str]:
    """Names as keys: id, id_2 for the ids of two tables."""
    counted = [names[:place].count(name) for place, name in enumerate(names, start=1)]
    return [name if n == 1 else f"{name}_{n}" for name, n in zip(names, counted, strict=True)]


def _table(answer: Answer) -> Iterator[str]:
    cells = [[_short(_text(value, null="NULL")) for value in row] for row in answer.rows]
    columns = [answer.columns, *cells]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    numbers = [
        any(isinstance(row[place], int | float) for row in answer.rows)
        for place in range(len(widths))
    ]
    for place, line in enumerate(columns):
        yield "  ".join(_aligned(line, widths, numbers)).rstrip()
        if place == 0:
            yield "  ".join("-" * width for width in widths)


def _aligned(line: Sequence[str], widths: list[int], numbers: list[bool]) -> Iterator[str]:
    for cell, width, is_number in zip(line, widths, numbers, strict=True):
        yield cell.rjust(width) if is_number else cell.ljust(width)


def _text(value: Any, *, null: str) -> str:
    if value is None:
        return null
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(cell: str) -> str:
    cell = " ".join(cell.split())
    return cell if len(cell) <= _MAX_CELL_CHARS else cell[: _MAX_CELL_CHARS - 1] + "…"


@contextmanager
def _query_errors() -> Iterator[None]:
    """Tell what is wrong with a statement in one line, in Spark's words."""
    try:
        yield
    except PySparkException as error:
        known = explain(error)
        if known is not None:
            raise known from error
        if error.getCondition() is None:  # not an answer about the statement: a failure of Spark
            raise
        # Below the first line are the statement, its plan, or a trace.
        raise PipelineError(str(error).strip().splitlines()[0]) from error
