"""From staged scores to tags: the scores at or above the threshold of their label."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.schemas import IMAGE_TAGS

_FACT = ("image_id", "image_version", "model_version", "taxonomy_version", "run_id")


def tags_of(staged: DataFrame, labels: DataFrame) -> DataFrame:
    """The tags that facts publish where they win.

    Of a single-label task only the best label is published.

    Args:
        staged: Facts with image_id, tags, image_version, model_version, taxonomy_version, run_id.
        labels: taxonomy_version, task, label, kind, threshold.

    Returns:
        The columns of ``image_tags``.
    """
    # The best label of a task is its first, since tags are staged best first.
    # The tasks are a field of the array: a lambda over it is interpreted, three times as slow.
    tasks = F.col("tags.task").alias("tasks")
    scored = staged.select(*_FACT, tasks, F.posexplode("tags").alias("rank", "tag"))
    limits = F.broadcast(labels.select("taxonomy_version", "task", "label", "kind", "threshold"))
    is_best = F.array_position("tasks", F.col("task")) == F.col("rank") + 1
    return (
        scored.select(*_FACT, "tasks", "rank", "tag.*")
        .join(limits, ["taxonomy_version", "task", "label"])
        .where(F.col("score") >= F.col("threshold"))
        .where((F.col("kind") != "single_label") | is_best)
        .select(*IMAGE_TAGS.columns.names)
    )
