"""Staging: what a run has to do becomes facts in its own partition of ``tagging_results``.

Deletions, contradictions and reused facts are one commit; images to tag follow in chunks of a
commit each, so that a killed run loses at most the chunk it was in. Staging again goes on with what
is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import StageConfig
from pipeline.errors import ConfigurationError
from pipeline.images.reasons import Reason
from pipeline.tables.ledger import Run
from pipeline.tables.schemas import OUTCOME, TAGGING_RESULTS, TAGGING_RUNS
from pipeline.tables.store import TableSet
from pipeline.taxonomy import Taxonomy

TASKS_PER_SLOT = 4  # tasks of a chunk for each slot, so that no slot idles long at its end
LEAST_TASK_ROWS = 128  # below it a task's start-up costs more than it evens out


@dataclass(frozen=True, kw_only=True)
class Tagger:
    """The model as a run sees it.

    Attributes:
        tag: From the columns image_id, uri, content and text to a struct column ``OUTCOME``.
        model_version: Digest of the model.
        taxonomy: The taxonomy in force.
    """

    tag: Callable[[Column, Column, Column, Column], Column]
    model_version: str
    taxonomy: Taxonomy


class Progress:
    """What staging tells of its progress; the base class tells nobody."""

    def begin(self, images: int) -> None:
        """So many images will be tagged."""

    def chunk(self, images: int, tasks: int) -> None:
        """A chunk of so many images in so many tasks begins."""

    def end(self) -> None:
        """Staging is over."""


def validate_floor(tagger: Tagger, config: StageConfig) -> None:
    """Refuse thresholds below the floor: their tags would be lost before they are published.

    Raises:
        ConfigurationError: With the label and both numbers.
    """
    for task, label in tagger.taxonomy.labels:
        if label.threshold < config.score_floor:
            raise ConfigurationError(
                "a threshold lies below the floor of staged scores",
                where=f"task {task.id}, label {label.id}",
                expected=f"at least {config.score_floor}",
                got=label.threshold,
                todo="lower --stage.score_floor",
            )


def stage_plan(
    tables: TableSet,
    run: Run,
    plan: DataFrame,
    tagger: Tagger,
    *,
    source: str,
    config: StageConfig,
    slots: int,
    progress: Progress,
    reuse: bool = True,
) -> int:
    """Stage a fact for every row of ``plan``.

    Args:
        tables: The table set.
        run: The run that stages.
        plan: Canonical manifest rows with ``action`` tag, delete or contradict, and no fact of
            this run yet.
        tagger: The model.
        source: Name of the feed.
        config: Sizes of chunks and tasks.
        slots: Tasks that run at once.
        progress: Hears how it goes on.
        reuse: Take facts that other runs staged.

    Returns:
        Number of images that went to the model now.
    """
    facts = manifest_facts(plan.where(F.col("action") != "tag"), run, source=source)
    to_tag = plan.where(F.col("action") == "tag")
    if reuse:
        facts = facts.unionByName(reusable_facts(tables, run, to_tag, tagger, source=source))
    # Without a look whether there are any: that would cost as much as an empty commit.
    tables.append(TAGGING_RESULTS.name, facts, commit_note=f"mumic run {run.run_id} facts")

    remaining = to_tag.join(staged_images(tables, run.run_id), "image_id", "left_anti")
    remaining.persist(StorageLevel.DISK_ONLY)  # rows may carry image bytes
    try:
        return _tag_chunks(
            tables,
            run,
            remaining,
            tagger,
            source=source,
            config=config,
            slots=slots,
            progress=progress,
        )
    finally:
        progress.end()
        remaining.unpersist()


def split_staged(tables: TableSet, run_id: str, rows: DataFrame) -> tuple[DataFrame, int]:
    """The rows of whose image the run staged no fact, and of how many images it did."""
    staged = staged_images(tables, run_id)
    return rows.join(staged, "image_id", "left_anti"), staged.count()


def staged_images(tables: TableSet, run_id: str) -> DataFrame:
    """The image_id of every image of which the run staged a fact."""
    results = tables.read(TAGGING_RESULTS.name)
    return results.where(F.col("run_id") == run_id).select("image_id").distinct()


def _tag_chunks(
    tables: TableSet,
    run: Run,
    remaining: DataFrame,
    tagger: Tagger,
    *,
    source: str,
    config: StageConfig,
    slots: int,
    progress: Progress,
) -> int:
    images = remaining.count()
    progress.begin(images)
    chunks = math.ceil(images / config.chunk_rows)
    for number in range(chunks):
        chunk, rows = remaining, images
        if chunks > 1:
            chunk = remaining.where(F.pmod(F.xxhash64("image_id"), F.lit(chunks)) == number)
            rows = chunk.count()
        tasks = count_tasks(rows, partition_rows=config.partition_rows, slots=slots)
        progress.chunk(rows, tasks)
        facts = tagged_facts(chunk.repartition(tasks), run, tagger, source=source)
        note = f"mumic run {run.run_id} chunk {number + 1} of {chunks}"
        tables.append(TAGGING_RESULTS.name, facts, commit_note=note)
    return images


def count_tasks(rows: int, *, partition_rows: int, slots: int) -> int:
    """Tasks for a chunk: enough to keep every slot busy to the end, no more than pay."""
    for_balance = slots * min(TASKS_PER_SLOT, max(1, rows // (slots * LEAST_TASK_ROWS)))
    for_size = math.ceil(rows / partition_rows)
    waves = math.ceil(max(for_balance, for_size, 1) / slots)
    return max(1, min(rows, waves * slots))


def tagged_facts(rows: DataFrame, run: Run, tagger: Tagger, *, source: str) -> DataFrame:
    """Facts of the model. Nothing is filtered or counted after the UDF but in the written table."""
    outcome = tagger.tag(F.col("image_id"), F.col("uri"), F.col("content"), F.col("text"))
    seen = rows.select("image_id", "image_version", "clean_uri", outcome.alias("outcome"))
    return _facts(
        seen.select(
            "image_id",
            "image_version",
            F.col("clean_uri").alias("uri"),
            F.when(F.col("outcome.reason").isNull(), "tagged").otherwise("failed").alias("status"),
            F.lit("model").alias("origin"),
            F.current_timestamp().alias("tagged_at"),
            "outcome.*",
        ),
        run,
        source=source,
    )


def manifest_facts(rows: DataFrame, run: Run, *, source: str) -> DataFrame:
    """Facts the manifest alone tells: deletions, and rows that contradict each other."""
    deleted = F.col("deleted")
    nothing = {
        field.name: F.lit(None).cast(field.dataType).alias(field.name)
        for field in OUTCOME.fields
        if field.name not in ("reason", "detail", "retriable")
    }
    return _facts(
        rows.select(
            "image_id",
            "image_version",
            F.col("clean_uri").alias("uri"),
            F.when(deleted, "deleted").otherwise("failed").alias("status"),
            F.lit("manifest").alias("origin"),
            F.lit(None).cast("timestamp").alias("tagged_at"),
            F.when(~deleted, Reason.CONTRADICTION.value).alias("reason"),
            F.when(~deleted, "rows of the manifest disagree about this image").alias("detail"),
            F.when(~deleted, F.lit(Reason.CONTRADICTION.retriable)).alias("retriable"),
            *nothing.values(),
        ),
        run,
        source=source,
    )


def reusable_results(
    tables: TableSet, to_tag: DataFrame, tagger: Tagger, *, run_id: str
) -> DataFrame:
    """What other runs staged about the same versions with the same model and taxonomy, the latest.

    Failures are never taken from another run, and nothing from one that was discarded.

    Returns:
        image_id, image_version, and a struct ``fact``: wanted_uri, tagged_at, and ``OUTCOME``.
    """
    runs = tables.read(TAGGING_RUNS.name)
    discarded = runs.where(F.col("state") == "discarded").select("run_id").distinct()
    facts = (
        tables.read(TAGGING_RESULTS.name)
        .where(F.col("run_id") != run_id)
        .where(F.col("model_version") == tagger.model_version)
        .where(F.col("taxonomy_version") == tagger.taxonomy.version)
        .where(F.col("status") == "tagged")
        .join(F.broadcast(discarded), "run_id", "left_anti")
    )
    wanted = to_tag.select("image_id", "image_version", F.col("clean_uri").alias("wanted_uri"))
    matched = facts.join(wanted, ["image_id", "image_version"])
    fact = F.struct("wanted_uri", "tagged_at", *OUTCOME.names)
    return matched.groupBy("image_id", "image_version").agg(
        F.max_by(fact, F.col("run_seq")).alias("fact")
    )


def reusable_facts(
    tables: TableSet, run: Run, to_tag: DataFrame, tagger: Tagger, *, source: str
) -> DataFrame:
    """:func:`reusable_results` as facts of this run."""
    latest = reusable_results(tables, to_tag, tagger, run_id=run.run_id)
    return _facts(
        latest.select(
            "image_id",
            "image_version",
            F.col("fact.wanted_uri").alias("uri"),
            F.lit("tagged").alias("status"),
            F.lit("reused").alias("origin"),
            F.col("fact.tagged_at").alias("tagged_at"),
            *(F.col(f"fact.{name}").alias(name) for name in OUTCOME.names),
        ),
        run,
        source=source,
    )


def _facts(rows: DataFrame, run: Run, *, source: str) -> DataFrame:
    """Rows in the columns of ``tagging_results``, with what is the same for all of the run."""
    gone = F.col("status") == "deleted"
    same = {
        "run_id": F.lit(run.run_id),
        "source": F.lit(source),
        "as_of": F.lit(run.as_of),
        "run_seq": F.lit(run.run_seq).cast("bigint"),
        "model_version": F.when(~gone, F.lit(run.model_version)),
        "taxonomy_version": F.when(~gone, F.lit(run.taxonomy_version)),
    }
    return rows.withColumns(same).select(*TAGGING_RESULTS.columns.names)
