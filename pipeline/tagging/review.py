"""A run as a person reviews it: what the audit saw, read from the ledger, with sample images.

The samples of a label that drifts are the images that show it best: those that lost the label with
the highest score, got it with the highest, or whose score moved most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.ledger import Ledger, Run
from pipeline.tables.schemas import IMAGE_TAGS, IMAGES, LABELS
from pipeline.tables.store import TableSet
from pipeline.tagging.audit import from_json
from pipeline.tagging.drift import Drift, Review, Sample, find_drifts
from pipeline.tagging.facts import unique_facts
from pipeline.tagging.tags import tags_of

_LABEL = ["task", "label"]
_TAG = ["image_id", *_LABEL]


def read_review(tables: TableSet, run: Run, *, samples: int) -> Review:
    """What the audit saw of a run.

    Args:
        tables: The table set.
        run: In any state; of one that was never audited there is little to say.
        samples: Images of each label that drifts, at most.
    """
    review = Review(
        run_id=run.run_id,
        job=run.job,
        state=run.state,
        as_of=run.as_of,
        model_version=run.model_version,
        taxonomy_version=run.taxonomy_version,
    )
    if run.audit is None:
        return review
    figures, findings = from_json(run.audit)
    drifts = find_drifts(figures, findings)
    if samples and drifts and figures.reference is not None:
        drifts = _with_samples(tables, run, figures.reference, drifts, samples)
    failing = any(finding.what == "failed" for finding in findings)
    return replace(
        review,
        figures=figures,
        findings=findings,
        reasons=_count_reasons(tables, run) if failing else {},
        drifts=drifts,
    )


def _count_reasons(tables: TableSet, run: Run) -> dict[str, int]:
    failed = unique_facts(tables, run).where(F.col("status") == "failed")
    counted = failed.groupBy("reason").count().orderBy(F.col("count").desc(), "reason")
    return {row["reason"]: row["count"] for row in counted.collect()}


def _with_samples(
    tables: TableSet, run: Run, reference: str, drifts: Sequence[Drift], samples: int
) -> tuple[Drift, ...]:
    wanted = tables.spark.createDataFrame(
        [(one.figures.task, one.figures.label, one.change, one.falls) for one in drifts],
        "task string, label string, change string, falls boolean",
    )
    if reference == "standing":
        candidates = _against_standing(tables, run, wanted)
    else:
        candidates = _against_run(tables, run, Ledger(tables).find(reference), wanted)
    best = Window.partitionBy(*_LABEL).orderBy(F.col("strength").desc(), "image_id")
    ranked = candidates.withColumn("rank", F.row_number().over(best))
    found: dict[tuple[str, str], list[Sample]] = {}
    for row in ranked.where(F.col("rank") <= samples).orderBy(*_LABEL, "rank").collect():
        sample = Sample(
            image_id=row["image_id"],
            uri=row["uri"],
            score_before=row["score_before"],
            score_now=row["score_now"],
        )
        found.setdefault((row["task"], row["label"]), []).append(sample)
    return tuple(
        replace(one, samples=tuple(found.get((one.figures.task, one.figures.label), ())))
        for one in drifts
    )


def _against_standing(tables: TableSet, run: Run, wanted: DataFrame) -> DataFrame:
    """Images whose standing tags differ from the staged ones in a wanted label.

    Returns:
        task, label, image_id, uri, score_before, score_now, strength.
    """
    standing = tables.read(IMAGES.name).where(F.col("status") == "tagged").select("image_id")
    facts = _tagged(tables, run).join(standing, "image_id", "left_semi")
    labels = F.broadcast(wanted)
    published = tables.read(IMAGE_TAGS.name).join(facts, "image_id", "left_semi")
    before = published.join(labels, _LABEL, "left_semi").select(
        *_TAG, F.col("score").alias("score_before")
    )
    now = _tags(tables, facts, wanted).select(*_TAG, F.col("score").alias("passing"))
    # Below the threshold as well: how far a score fell tells more than that it did.
    scored = facts.select("image_id", F.explode("tags").alias("tag")).select("image_id", "tag.*")
    staged = scored.join(labels, _LABEL, "left_semi").select(
        *_TAG, F.col("score").alias("score_now")
    )
    pairs = before.join(now, _TAG, "full_outer").join(staged, _TAG, "left").join(labels, _LABEL)
    had, has, change = F.col("score_before"), F.col("passing"), F.col("change")
    strength = (
        F.when((change == "lost") & has.isNull(), had)
        .when((change == "gained") & had.isNull(), has)
        .when(change == "rescored", F.abs(has - had))
    )
    told = pairs.withColumn("strength", strength).where(F.col("strength").isNotNull())
    return told.join(facts.select("image_id", "uri"), "image_id")


def _against_run(tables: TableSet, run: Run, last: Run | None, wanted: DataFrame) -> DataFrame:
    """Images of the other run that had a wanted label which is lost; else images of this run.

    Returns:
        As :func:`_against_standing`.
    """
    nothing = F.lit(None).cast("float")
    is_lost = F.col("change") == "lost"
    now = _labelled(tables, run, wanted.where(~is_lost)).select(
        *_TAG,
        "uri",
        nothing.alias("score_before"),
        F.col("score").alias("score_now"),
        F.when((F.col("change") == "rescored") & F.col("falls"), -F.col("score"))
        .otherwise(F.col("score"))
        .alias("strength"),
    )
    if last is None:
        return now
    before = _labelled(tables, last, wanted.where(is_lost)).select(
        *_TAG,
        "uri",
        F.col("score").alias("score_before"),
        nothing.alias("score_now"),
        F.col("score").alias("strength"),
    )
    return now.unionByName(before)


def _tagged(tables: TableSet, run: Run) -> DataFrame:
    return unique_facts(tables, run).where(F.col("status") == "tagged")


def _tags(tables: TableSet, facts: DataFrame, wanted: DataFrame) -> DataFrame:
    return tags_of(facts, tables.read(LABELS.name)).join(F.broadcast(wanted), _LABEL, "left_semi")


def _labelled(tables: TableSet, run: Run, wanted: DataFrame) -> DataFrame:
    """Tags of a run in the wanted labels, with what is wanted of them and the image's uri."""
    facts = _tagged(tables, run)
    tags = tags_of(facts, tables.read(LABELS.name)).select(*_TAG, "score")
    return tags.join(F.broadcast(wanted), _LABEL).join(facts.select("image_id", "uri"), "image_id")
