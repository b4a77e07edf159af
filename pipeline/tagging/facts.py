"""Facts: what a run says of an image, in the columns of ``tagging_results``, and how they are read.

Where a fact comes from is its ``origin``: the ``model`` looked at the image, another run's fact was
``reused``, a stored ``embedding`` was scored again, staged ``scores`` met other thresholds, or the
``manifest`` says all there is to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812

from pipeline.images.reasons import Reason
from pipeline.tables.ledger import Run
from pipeline.tables.schemas import (
    OUTCOME,
    TAGGING_RESULTS,
    TAGGING_RUNS,
)
from pipeline.tables.store import TableSet
from pipeline.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Tagger:
    """The model as a run sees it.

    Attributes:
        tag: From the columns image_id, uri, content and text to a struct column ``OUTCOME``.
            Where it ``recalls``, a fifth column ``KNOWN`` may follow.
        rescore: From a stored embedding to its tags, as ``tag`` gives them; None: the model's
            scores cannot be made from its embedding alone, and only thresholds can be changed
            without it.
        model_version: Digest of the model.
        taxonomy: The taxonomy in force.
        recalls: Whether ``tag`` answers from what it is told of an image, where the bytes are
            still those. Its tags have to follow from the embedding alone.
    """

    tag: Callable[..., Column]
    rescore: Callable[[Column], Column] | None = None
    model_version: str
    taxonomy: Taxonomy
    recalls: bool = False


@dataclass(frozen=True, kw_only=True)
class FactCounts:
    """How many facts a run staged, at one version of their table.

    Attributes:
        version: Of ``tagging_results``.
        facts: Their number.
        repeats: Whether an image may have more than one; where none has, that is certain.
    """

    version: int
    facts: int
    repeats: bool


def tagged_facts(rows: DataFrame, run: Run, tagger: Tagger) -> DataFrame:
    """Facts of the model. Nothing is filtered or counted after the UDF but in the written table.

    Rows with a column known come from :func:`pipeline.tagging.recollection.with_known`.
    """
    told = ("known",) if "known" in rows.columns else ()
    outcome = tagger.tag(*(F.col(name) for name in ("image_id", "uri", "content", "text", *told)))
    seen = rows.select(*ASKED, outcome.alias("outcome"))
    return make_facts(
        seen.select(
            *ASKED,
            F.when(F.col("outcome.reason").isNull(), "tagged").otherwise("failed").alias("status"),
            F.lit("model").alias("origin"),
            F.current_timestamp().alias("tagged_at"),
            "outcome.*",
        ),
        run,
    )


def manifest_facts(rows: DataFrame, run: Run) -> DataFrame:
    """Facts the manifest alone tells: deletions, and rows that contradict each other."""
    deleted = F.col("deleted")
    return make_facts(
        rows.select(
            *ASKED,
            F.when(deleted, "deleted").otherwise("failed").alias("status"),
            F.lit("manifest").alias("origin"),
            F.lit(None).cast("timestamp").alias("tagged_at"),
            F.when(~deleted, Reason.CONTRADICTION.value).alias("reason"),
            F.when(~deleted, "rows of the manifest disagree about this image").alias("detail"),
            F.when(~deleted, F.lit(Reason.CONTRADICTION.retriable)).alias("retriable"),
            *nothing_of(OUTCOME.names, but=("reason", "detail", "retriable")),
        ),
        run,
    )


def reusable_results(
    tables: TableSet, to_tag: DataFrame, tagger: Tagger, *, run_id: str
) -> DataFrame:
    """What other runs staged about the same versions with the same model and taxonomy, the latest.

    Failures are never taken from another run, and nothing from one that was discarded.

    Returns:
        The columns of ``to_tag`` that facts keep, and a struct ``fact``: tagged_at, and
        ``OUTCOME``. One row for each image.
    """
    runs = tables.read(TAGGING_RUNS.name)
    discarded = runs.where(F.col("state") == "discarded").select("run_id").distinct()
    # At one version: an append that reads what stands conflicts with maintenance and erasure.
    results = tables.read(TAGGING_RESULTS.name, version=tables.version(TAGGING_RESULTS.name))
    facts = (
        results.where(F.col("run_id") != run_id)
        .where(F.col("model_version") == tagger.model_version)
        .where(F.col("taxonomy_version") == tagger.taxonomy.version)
        .where(F.col("status") == "tagged")
        .join(F.broadcast(discarded), "run_id", "left_anti")
        .select("image_id", "image_version", "run_seq", F.struct(*_OF_RESULT).alias("fact"))
    )
    asked = F.struct(*ASKED)
    wanted = to_tag.select("image_id", "image_version", asked.alias("asked"))
    matched = facts.join(wanted, ["image_id", "image_version"])
    latest = matched.groupBy("image_id", "image_version").agg(
        F.max_by(F.struct("asked", "fact"), F.col("run_seq")).alias("found")
    )
    return latest.select("found.asked.*", "found.fact")


def reusable_facts(tables: TableSet, run: Run, to_tag: DataFrame, tagger: Tagger) -> DataFrame:
    """:func:`reusable_results` as facts of this run."""
    latest = reusable_results(tables, to_tag, tagger, run_id=run.run_id)
    return make_facts(
        latest.select(
            *ASKED, F.lit("tagged").alias("status"), F.lit("reused").alias("origin"), "fact.*"
        ),
        run,
    )


def staged_facts(tables: TableSet, run: Run, *, version: int | None = None) -> DataFrame:
    """The facts a run staged. Those of schema version 1 lack what all but a backfill say alike.

    Args:
        tables: The table set.
        run: The run.
        version: Of ``tagging_results``; None: the latest whenever the facts are read.
    """
    facts = tables.read(TAGGING_RESULTS.name, version=version).where(F.col("run_id") == run.run_id)
    return facts.withColumns(
        {
            "as_of_seq": F.coalesce("as_of_seq", "run_seq"),
            "run_as_of": F.coalesce("run_as_of", "as_of"),
            "embedding_seq": F.coalesce("embedding_seq", "run_seq"),
        }
    )


def count_facts(tables: TableSet, run: Run, *, known: FactCounts | None = None) -> FactCounts:
    """Count the facts a run staged, and see whether any image may have more than one.

    Args:
        tables: The table set.
        run: The run.
        known: Counts of before: they hold as long as the table has not changed.
    """
    version = tables.version(TAGGING_RESULTS.name)
    if known is not None and known.version == version:
        return known
    staged = staged_facts(tables, run, version=version)
    by_image = staged.groupBy(F.xxhash64("image_id")).count()
    whole = by_image.agg(F.sum("count").alias("facts"), F.max("count").alias("most")).collect()[0]
    return FactCounts(version=version, facts=whole["facts"] or 0, repeats=(whole["most"] or 0) > 1)


def unique_facts(tables: TableSet, run: Run, counts: FactCounts | None = None) -> DataFrame:
    """The facts a run staged, one for each image: a zombie task can stage twice, or a lost answer.

    Tagged before failed, then the latest, then by content, so that the choice is always the same.
    All are read at one version of the table: what a zombie still appends is not among them.

    Args:
        tables: The table set.
        run: The run.
        counts: Of :func:`count_facts`, where they are known already.
    """
    counts = counts or count_facts(tables, run)
    staged = staged_facts(tables, run, version=counts.version)
    if not counts.repeats:
        return staged
    order = Window.partitionBy("image_id").orderBy(
        F.when(F.col("status") == "tagged", 0).otherwise(1),
        F.col("tagged_at").desc(),
        F.col("content_sha256"),
        F.col("reason"),
    )
    ranked = staged.withColumn("rank", F.row_number().over(order))
    return ranked.where(F.col("rank") == 1).drop("rank")


ASKED = (
    "image_id",
    "source",
    "image_version",
    "as_of",
    "as_of_seq",
    "clean_uri",
    "refetchable",
)
"""What a fact keeps of the row of the plan that asked for it."""

_OF_RESULT = ("tagged_at", *OUTCOME.names)


def nothing_of(names: list[str], *, but: tuple[str, ...]) -> list[Column]:
    """Nulls for the columns of ``OUTCOME`` that a fact says nothing of."""
    return [
        F.lit(None).cast(OUTCOME[name].dataType).alias(name) for name in names if name not in but
    ]


def make_facts(rows: DataFrame, run: Run) -> DataFrame:
    """Rows in the columns of ``tagging_results``, with what is the same for all of the run."""
    gone = F.col("status") == "deleted"
    same = {
        "run_id": F.lit(run.run_id),
        "run_as_of": F.lit(run.as_of),
        "run_seq": F.lit(run.run_seq).cast("bigint"),
        "model_version": F.when(~gone, F.lit(run.model_version)),
        "taxonomy_version": F.when(~gone, F.lit(run.taxonomy_version)),
    }
    if "embedding_seq" not in rows.columns:
        same["embedding_seq"] = same["run_seq"]
    named = rows.withColumnRenamed("clean_uri", "uri").withColumns(same)
    return named.select(*TAGGING_RESULTS.columns.names)
