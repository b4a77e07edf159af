"""The table ``labels``: every taxonomy that was used. Publishing needs nothing but tables."""

from __future__ import annotations

from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.merge import merge_rows
from pipeline.tables.schemas import LABELS
from pipeline.tables.store import TableSet
from pipeline.taxonomy import Taxonomy


def write_labels(tables: TableSet, taxonomy: Taxonomy) -> None:
    """Add the taxonomy's labels unless they are there."""
    known = tables.read(LABELS.name).where(F.col("taxonomy_version") == taxonomy.version)
    if not known.isEmpty():
        return
    rows = tables.spark.createDataFrame(
        [
            (
                taxonomy.version,
                task.id,
                task.kind,
                label.id,
                label.name,
                list(label.texts),
                float(label.threshold),
            )
            for task, label in taxonomy.labels
        ],
        LABELS.columns,
    )
    merge_rows(tables, LABELS, rows, values=LABELS.key, note=f"taxonomy {taxonomy.version}")
