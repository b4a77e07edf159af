"""Staging: what a run has to do becomes facts in its own partition of ``tagging_results``.

Deletions, contradictions, reused facts and scores from stored embeddings are one commit; images to
tag follow in chunks of a commit each, so that a killed run loses at most the chunk it was in.
Staging again goes on with what is missing.
"""

from __future__ import annotations

import math

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import StageConfig
from pipeline.errors import ConfigurationError
from pipeline.spark import temporary_settings
from pipeline.tables.ledger import Run
from pipeline.tables.schemas import TAGGING_RESULTS
from pipeline.tables.store import TableSet
from pipeline.tagging.facts import (
    Tagger,
    manifest_facts,
    reusable_facts,
    tagged_facts,
)
from pipeline.tagging.recollection import with_known
from pipeline.tagging.rescoring import rescored_facts

TASKS_PER_SLOT = 4  # tasks of a chunk for each slot, so that no slot idles long at its end
# Vectors that are scored at a time: no image is waited for, and small batches cost.
_SCORING = {"spark.sql.execution.arrow.maxRecordsPerBatch": "2048"}
LEAST_TASK_ROWS = 128  # below it a task's start-up costs more than it evens out


class Progress:
    """What staging tells of its progress; the base class tells nobody."""

    def expect(self, images: int) -> None:
        """So many images will be tagged by several runs together, until ``finish``."""

    def begin(self, images: int) -> None:
        """So many images will be tagged by a run."""

    def chunk(self, images: int, tasks: int) -> None:
        """A chunk of so many images in so many tasks begins."""

    def end(self) -> None:
        """Staging of the run is over."""

    def finish(self) -> None:
        """No more runs follow."""


class Pace:
    """How fast staging may go, asked between chunks; the base class knows no limit."""

    def go_on(self, staged: int) -> bool:
        """Whether another chunk may begin, after so many images; waits until it may."""
        del staged
        return True


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
    rescore: bool,
    config: StageConfig,
    slots: int,
    progress: Progress,
    pace: Pace,
    reuse: bool = True,
    recall: bool = False,
) -> int:
    """Stage a fact for every row of ``plan``, as long as ``pace`` lets it.

    Args:
        tables: The table set.
        run: The run that stages.
        plan: Rows of :func:`pipeline.tagging.planning.plan_run` with ``action`` tag, rescore,
            delete or contradict, and no fact of this run yet.
        tagger: The model.
        rescore: Whether there are rows to score again.
        config: Sizes of chunks and tasks.
        slots: Tasks that run at once.
        progress: Hears how it goes on.
        pace: Says whether another chunk may begin.
        reuse: Take facts that other runs staged.
        recall: Tell the model what stands of images whose bytes may be the same.

    Returns:
        Number of images that were looked at now.
    """
    facts = manifest_facts(plan.where(F.col("action").isin("delete", "contradict")), run)
    to_tag = plan.where(F.col("action") == "tag")
    if reuse:
        facts = facts.unionByName(reusable_facts(tables, run, to_tag, tagger))
    if rescore:
        again = plan.where(F.col("action") == "rescore")
        facts = facts.unionByName(rescored_facts(tables, run, again, tagger))
    # Without a look whether there are any: that would cost as much as an empty commit.
    with temporary_settings(tables.spark, _SCORING if rescore else {}):
        tables.append(TAGGING_RESULTS.name, facts, commit_note=f"mumic run {run.run_id} facts")

    remaining = to_tag.join(staged_images(tables, run.run_id), "image_id", "left_anti")
    if recall:
        remaining = with_known(remaining, tables, model_version=tagger.model_version)
    else:
        remaining = remaining.drop("known")
    remaining.persist(StorageLevel.DISK_ONLY)  # rows may carry image bytes
    try:
        return _tag_chunks(
            tables,
            run,
            remaining,
            tagger,
            config=config,
            slots=slots,
            progress=progress,
            pace=pace,
        )
    finally:
        progress.end()
        remaining.unpersist()


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
    config: StageConfig,
    slots: int,
    progress: Progress,
    pace: Pace,
) -> int:
    images = remaining.count()
    progress.begin(images)
    chunks = math.ceil(images / config.chunk_rows)
    staged = 0
    for number in range(chunks):
        if not pace.go_on(staged):
            break
        chunk, rows = remaining, images
        if chunks > 1:
            chunk = remaining.where(F.pmod(F.xxhash64("image_id"), F.lit(chunks)) == number)
            rows = chunk.count()
        tasks = count_tasks(rows, partition_rows=config.partition_rows, slots=slots)
        progress.chunk(rows, tasks)
        note = f"mumic run {run.run_id} chunk {number + 1} of {chunks}"
        facts = tagged_facts(chunk.repartition(tasks), run, tagger)
        tables.append(TAGGING_RESULTS.name, facts, commit_note=note)
        staged += rows
    return staged


def count_tasks(rows: int, *, partition_rows: int, slots: int) -> int:
    """Tasks for a chunk: enough to keep every slot busy to the end, no more than pay."""
    for_balance = slots * min(TASKS_PER_SLOT, max(1, rows // (slots * LEAST_TASK_ROWS)))
    for_size = math.ceil(rows / partition_rows)
    waves = math.ceil(max(for_balance, for_size, 1) / slots)
    return max(1, min(rows, waves * slots))
