"""Views over the tables: what is asked of them most.

In a catalog they stand beside the tables for whoever speaks SQL; over folders a session makes
temporary ones for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.tables.schemas import IMAGES, TAGGING_RUNS
from pipeline.tables.storage_errors import storage_errors
from pipeline.tables.store import TableSet


@dataclass(frozen=True, kw_only=True)
class View:
    """A view over one table.

    Attributes:
        table: Name of the table.
        query: Its SQL; ``{table}`` stands for the table.
        comment: What it shows.
    """

    table: str
    query: str
    comment: str

    def over(self, table: str) -> str:
        """The SQL over the table under this name."""
        return self.query.format(table=table)


VIEWS = {
    "tagging_failures": View(
        table=IMAGES.name,
        query="SELECT * FROM {table} WHERE reason IS NOT NULL",
        comment="Images with a reason: their last try failed",
    ),
    "coverage": View(
        table=IMAGES.name,
        query="SELECT status, model_version, taxonomy_version, count(*) AS images FROM {table}"
        " GROUP BY status, model_version, taxonomy_version",
        comment="Images by status, model and taxonomy",
    ),
    "runs": View(
        table=TAGGING_RUNS.name,
        query="SELECT run.* FROM (SELECT max_by(struct(*), change) AS run FROM {table}"
        " GROUP BY run_id)",
        comment="The latest state of each run",
    ),
}


def create_views(tables: TableSet, *, over: str) -> None:
    """Make the views over a table in the tables' schema; the same again changes nothing.

    Over folders nothing is made: only a session has names for them.

    Raises:
        TablesError: The storage refuses.
    """
    if tables.schema is None:
        return
    for name, view in VIEWS.items():
        if view.table != over:
            continue
        with storage_errors(f"creating the view {tables.place(name)}"):
            tables.spark.sql(
                f"CREATE OR REPLACE VIEW {tables.sql_name(name)} COMMENT '{view.comment}'"
                f" AS {view.over(tables.sql_name(view.table))}"
            )


def register_views(tables: TableSet, names: list[str]) -> None:
    """Make temporary views over tables that the session knows by their plain names."""
    for name in names:
        query = VIEWS[name].over(VIEWS[name].table)
        tables.spark.sql(query).createOrReplaceTempView(name)
