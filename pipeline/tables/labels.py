"""The table ``labels``: every taxonomy that was used. Publishing needs nothing but tables."""

from __future__ import annotations

from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.lease import Lease
from pipeline.tables.merge import merge_rows
from pipeline.tables.schemas import LABELS
from pipeline.tables.store import TableSet
from pipeline.taxonomy import Taxonomy


def knows_labels(tables: TableSet, taxonomy: Taxonomy) -> bool:
    """Whether the taxonomy's labels are there."""
    known = tables.read(LABELS.name).where(F.col("taxonomy_version") == taxonomy.version)
    return not known.isEmpty()


def write_labels(tables: TableSet, taxonomy: Taxonomy, lease: Lease) -> None:
    """Add the taxonomy's labels."""
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
    note = f"taxonomy {taxonomy.version}"
    merge_rows(tables, LABELS, rows, values=LABELS.key, note=note, lease=lease)
