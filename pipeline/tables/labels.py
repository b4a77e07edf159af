"""The table ``labels``: every taxonomy that was used. Publishing needs nothing but tables."""

from __future__ import annotations

from pyspark.sql import functions as F  # noqa: N812

from pipeline.few_rows import few_rows
from pipeline.tables.lease import Lease
from pipeline.tables.merge import merge_rows
from pipeline.tables.schemas import LABELS
from pipeline.tables.store import TableSet
from pipeline.taxonomy import Taxonomy


def knows_labels(tables: TableSet, taxonomy: Taxonomy) -> bool:
    """Whether the taxonomy's labels are there."""
    known = tables.read(LABELS.name).where(F.col("taxonomy_version") == taxonomy.version)
    with few_rows(tables.spark):
        return not known.isEmpty()


def same_but_thresholds(tables: TableSet, taxonomy: Taxonomy) -> frozenset[str]:
    """Versions of taxonomies that were used and differ from this one in thresholds alone, or not.

    The order of labels does not count.
    """
    asked = {
        (task.id, task.kind, label.id, label.name, tuple(label.texts))
        for task, label in taxonomy.labels
    }
    known: dict[str, set[tuple[str, str, str, str, tuple[str, ...]]]] = {}
    for row in tables.read(LABELS.name).drop("threshold").collect():
        label = (row["task"], row["kind"], row["label"], row["name"], tuple(row["texts"]))
        known.setdefault(row["taxonomy_version"], set()).add(label)
    return frozenset(version for version, labels in known.items() if labels == asked)


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
