"""Results for another taxonomy without the model: from stored embeddings, or from staged scores.

MuMIC's scores follow from the embedding, for any taxonomy. Scores of models that read more than
that (:class:`pipeline.tagging.facts.Tagger` without ``rescore``) are known down to the floor they
were staged with: enough for other thresholds, and for nothing else.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.labels import same_but_thresholds
from pipeline.tables.ledger import Run
from pipeline.tables.schemas import (
    IMAGE_EMBEDDINGS,
    IMAGES,
    OUTCOME,
    TAGGING_RESULTS,
    TAGGING_RUNS,
)
from pipeline.tables.store import TableSet
from pipeline.tagging.facts import ASKED, Tagger, make_facts, nothing_of

_KEY = ["image_id", "image_version"]
_UNKNOWN_FLOOR = 2.0  # above every threshold


def find_rescorable(tables: TableSet, tagger: Tagger) -> frozenset[str] | None:
    """Taxonomies whose results can be scored again; None: every one, from embeddings.

    From staged scores: those that differ from the one in force in thresholds alone. None at all
    where a run of this model staged with a floor above one of the thresholds in force: its facts
    may lack scores, and are copied from run to run.
    """
    if tagger.rescore is not None:
        return None
    runs = tables.read(TAGGING_RUNS.name).where(F.col("model_version") == tagger.model_version)
    told = F.get_json_object("config", "$.stage.score_floor").cast("double")
    floor = runs.agg(F.max(F.coalesce(told, F.lit(_UNKNOWN_FLOOR)))).collect()[0][0]
    least = min(label.threshold for _, label in tagger.taxonomy.labels)
    if floor is None or floor > least:
        return frozenset()
    return same_but_thresholds(tables, tagger.taxonomy)


def rescored_facts(tables: TableSet, run: Run, rows: DataFrame, tagger: Tagger) -> DataFrame:
    """Facts for another taxonomy of the same model. No image is read.

    They carry the moment and the embedding they build on, so that they win only while it stands.
    """
    if tagger.rescore is None:
        return _from_scores(tables, run, rows, tagger)
    read = _standing(tables, rows).join(_vectors(tables, tagger.model_version), _KEY)
    scored = read.withColumn("tags", tagger.rescore(F.col("embedding")))
    kept = ("tagged_at", "content_sha256", "width", "height", "tags", "embedding")
    return make_facts(
        scored.select(
            *ASKED,
            F.lit("tagged").alias("status"),
            F.lit("embedding").alias("origin"),
            "embedding_seq",
            *kept,
            *nothing_of(OUTCOME.names, but=kept),
        ),
        run,
    )


def tag_where_nothing_stands(plan: DataFrame, tables: TableSet, tagger: Tagger) -> DataFrame:
    """A plan whose images without anything to score again from are tagged instead."""
    if tagger.rescore is None:
        standing = _standing(tables, plan.select(*_KEY))
        found = standing.join(_scores(tables, tagger.model_version), [*_KEY, "run_id"])
    else:
        found = _vectors(tables, tagger.model_version)
    there = found.select(*_KEY, F.lit(True).alias("is_there"))
    lacks = (F.col("action") == "rescore") & F.col("is_there").isNull()
    action = F.when(lacks, "tag").otherwise(F.col("action"))
    joined = plan.join(there, _KEY, "left")
    return joined.withColumn("action", action).select(*plan.columns)


def _from_scores(tables: TableSet, run: Run, rows: DataFrame, tagger: Tagger) -> DataFrame:
    scores = _scores(tables, tagger.model_version).select(*_KEY, "run_id", *OUTCOME.names)
    read = _standing(tables, rows).drop("content_sha256", "width", "height")
    return make_facts(
        read.join(scores, [*_KEY, "run_id"]).select(
            *ASKED,
            F.lit("tagged").alias("status"),
            F.lit("scores").alias("origin"),
            "embedding_seq",
            "tagged_at",
            *OUTCOME.names,
        ),
        run,
    )


def _standing(tables: TableSet, rows: DataFrame) -> DataFrame:
    """Rows with the result that stands of their image, and the moment it was asserted."""
    standing = tables.read(IMAGES.name, version=tables.version(IMAGES.name)).select(
        *_KEY,
        "as_of",
        "as_of_seq",
        "run_id",
        "tagged_at",
        "content_sha256",
        "width",
        "height",
        F.coalesce("embedding_seq", "run_seq").alias("embedding_seq"),
    )
    return rows.drop("as_of", "as_of_seq").join(standing, _KEY)


def _vectors(tables: TableSet, model_version: str) -> DataFrame:
    vectors = tables.read(IMAGE_EMBEDDINGS.name)
    return vectors.where(F.col("model_version") == model_version).select(*_KEY, "embedding")


def _scores(tables: TableSet, model_version: str) -> DataFrame:
    """Tagged facts of a model. A zombie task may have staged one twice: equal ones, so any does."""
    # At one version: an append that reads what stands conflicts with maintenance and erasure.
    results = tables.read(TAGGING_RESULTS.name, version=tables.version(TAGGING_RESULTS.name))
    tagged = results.where(
        (F.col("status") == "tagged") & (F.col("model_version") == model_version)
    )
    return tagged.dropDuplicates(["run_id", "image_id"])
