"""The figures the audit judges, counted in staged facts and published tables."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.ledger import Ledger, Run
from pipeline.tables.merge import kept
from pipeline.tables.schemas import IMAGE_TAGS, IMAGES, LABELS
from pipeline.tables.store import TableSet
from pipeline.tagging.audit import AuditFigures, LabelFigures
from pipeline.tagging.facts import FactCounts, unique_facts
from pipeline.tagging.tags import tags_of

_RESULTS = ("tagged", "reused", "rescored")
_MOST_RUNS = 10  # earlier ones are hardly kept, and each is counted


def measure_staged(
    tables: TableSet,
    ledger: Ledger,
    run: Run,
    *,
    source: str | None,
    min_images: int,
    counted: FactCounts,
) -> AuditFigures:
    """Count what the audit judges; nothing but statuses where they are too few to judge.

    Args:
        tables: The table set.
        ledger: Its runs.
        run: The run that is staged.
        source: The feed whose images are removed; None: any.
        min_images: Images below which nothing is judged.
        counted: The facts of the run.
    """
    staged = unique_facts(tables, run, counted)
    met = {row["status"]: row["count"] for row in staged.groupBy("status").count().collect()}
    tagged, failed = met.get("tagged", 0), met.get("failed", 0)
    removed, standing = 0, None
    if met.get("deleted", 0):
        removed, standing = _count_removed(tables, staged, source)
    if tagged < min_images:
        return AuditFigures(tagged=tagged, failed=failed, removed=removed, standing=standing)
    results = staged.where(F.col("status") == "tagged")
    labels = tables.read(LABELS.name)
    tags = tags_of(results, labels).select("image_id", "task", "label", "score")
    with kept(_standing_images(tables, results)) as standing_images:
        untagged = tagged - tags.select(F.xxhash64("image_id")).distinct().count()
        reference = _Reference.of_standing(tables, standing_images, tags, tagged=tagged)
        if reference.images < min_images:
            reference = _Reference.of_last_run(
                tables, ledger, run, tags, tagged=tagged, min_images=min_images
            )
        return AuditFigures(
            tagged=tagged,
            failed=failed,
            untagged=untagged,
            removed=removed,
            standing=standing,
            reference=reference.name,
            images_before=reference.images,
            images_now=reference.images_now,
            labels=reference.compare(run, labels),
        )


def _count_removed(tables: TableSet, staged: DataFrame, source: str | None) -> tuple[int, int]:
    """Standing images that are to be deleted, and the feed's images that stand.

    A manifest may name images as deleted that nobody has heard of.
    """
    standing = tables.read(IMAGES.name).where(F.col("status").isin("tagged", "failed"))
    deleted = staged.where(F.col("status") == "deleted").select("image_id")
    removed = standing.join(deleted, "image_id", "left_semi").count()
    feed = standing if source is None else standing.where(F.col("source") == source)
    return removed, feed.count()


def _standing_images(tables: TableSet, results: DataFrame) -> DataFrame:
    """image_id and taxonomy_version of the images among these that have a result."""
    images = tables.read(IMAGES.name).where(F.col("status") == "tagged")
    return images.select("image_id", "taxonomy_version").join(
        results.select("image_id"), "image_id", "left_semi"
    )


class _Reference:
    """What staged tags are compared with.

    Args:
        name: As :attr:`AuditFigures.reference`.
        before: Tags of the reference: image_id, task, label, score.
        now: Staged tags they are compared with.
        images: Images of the reference.
        images_now: Images of the staged tags.
        taxonomies: The taxonomies of the reference.
    """

    def __init__(
        self,
        name: str | None,
        before: DataFrame | None,
        now: DataFrame,
        *,
        images: int,
        images_now: int,
        taxonomies: list[str],
    ) -> None:
        self.name, self.images, self.images_now = name, images, images_now
        self._before, self._now, self._taxonomies = before, now, taxonomies

    @classmethod
    def of_standing(
        cls, tables: TableSet, both: DataFrame, tags: DataFrame, *, tagged: int
    ) -> _Reference:
        """The published tags of the same images."""
        counted = both.groupBy("taxonomy_version").count().collect()
        n_images = sum(row["count"] for row in counted)
        published = tables.read(IMAGE_TAGS.name)
        return cls(
            "standing",
            published.join(both, "image_id", "left_semi"),
            tags if n_images == tagged else tags.join(both, "image_id", "left_semi"),
            images=n_images,
            images_now=n_images,
            taxonomies=[row["taxonomy_version"] for row in counted],
        )

    @classmethod
    def of_last_run(
        cls,
        tables: TableSet,
        ledger: Ledger,
        run: Run,
        tags: DataFrame,
        *,
        tagged: int,
        min_images: int,
    ) -> _Reference:
        """The tags the last published run of the same job staged, as far as they are kept.

        Nights of a few images are passed over: nothing can be compared with them.
        """
        same = [
            one
            for one in ledger.in_state("published")
            if one.job == run.job
            and sum(one.counts.get(name, 0) for name in _RESULTS) >= min_images
        ]
        for last in reversed(same[-_MOST_RUNS:]):
            facts = unique_facts(tables, last).where(F.col("status") == "tagged")
            images = facts.count()
            if images >= min_images:
                return cls(
                    last.run_id,
                    tags_of(facts, tables.read(LABELS.name)),
                    tags,
                    images=images,
                    images_now=tagged,
                    taxonomies=[last.taxonomy_version],
                )
        return cls(None, None, tags, images=0, images_now=0, taxonomies=[])

    def compare(self, run: Run, labels: DataFrame) -> tuple[LabelFigures, ...]:
        """Labels that the run's taxonomy and all of the reference's know, before and now."""
        if self._before is None:
            return ()
        known = (
            labels.where(F.col("taxonomy_version").isin(run.taxonomy_version, *self._taxonomies))
            .groupBy("task", "label")
            .agg(F.count_distinct("taxonomy_version").alias("taxonomies"))
            .where(F.col("taxonomies") == len({run.taxonomy_version, *self._taxonomies}))
        )
        compared = (
            known.join(_by_label(self._before, "before"), ["task", "label"], "left")
            .join(_by_label(self._now, "now"), ["task", "label"], "left")
            .orderBy("task", "label")
            .collect()
        )
        return tuple(
            LabelFigures(
                task=row["task"],
                label=row["label"],
                before=row["before"] or 0,
                now=row["now"] or 0,
                score_before=row["score_before"],
                score_now=row["score_now"],
            )
            for row in compared
        )


def _by_label(tags: DataFrame, when: str) -> DataFrame:
    return tags.groupBy("task", "label").agg(
        F.count(F.lit(1)).alias(when), F.avg("score").alias(f"score_{when}")
    )
