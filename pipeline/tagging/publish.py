"""Publishing a staged run: MERGE by key into image_embeddings, image_tags and, last, images.

Winners are decided once, against one version of ``images``, before the first table changes. Since
``images`` changes last, a publish that was cut off decides the same again; publishing twice changes
nothing. Needs nothing but the tables: thresholds come from the table ``labels``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.erase import delete_rows
from pipeline.tables.lease import Lease
from pipeline.tables.ledger import Run
from pipeline.tables.merge import kept, merge_rows
from pipeline.tables.schemas import (
    IMAGE_EMBEDDINGS,
    IMAGE_TAGS,
    IMAGES,
    LABELS,
    TAGGING_RESULTS,
    TableDefinition,
)
from pipeline.tables.store import TableSet
from pipeline.tagging.facts import staged_facts, unique_facts
from pipeline.tagging.tags import tags_of
from pipeline.tagging.winners import CHANGING, WINNING, decide_winners

_COUNTS = ("tagged", "failed", "deleted", "reused", "rescored", "superseded", "tags_published")
_COUNTED_BY_ORIGIN = {"reused": "reused", "embedding": "rescored"}
_TAG_VALUES = ("score", "source", "image_version", "model_version", "taxonomy_version")


PUBLISHED_TABLES = (IMAGE_EMBEDDINGS, IMAGE_TAGS, IMAGES)
"""What a publish changes, in this order."""


def publish_note(run: Run) -> str:
    """What the commits of a publish carry as their userMetadata."""
    return f"mumic run {run.run_id} published"


def publish_staged(tables: TableSet, run: Run, lease: Lease) -> dict[str, int]:
    """Publish what a run staged.

    Raises:
        LeaseError: The lease was lost; what was published so far is finished by the next holder.

    Returns:
        Counts: tagged, failed, deleted, reused, rescored, superseded, tags_published.
    """
    staged = staged_facts(tables, run)
    facts, images_named = _count_facts(staged)
    if facts == 0:
        return dict.fromkeys(_COUNTS, 0)
    if facts > images_named:
        staged = unique_facts(staged)
    note = publish_note(run)
    images = tables.read(IMAGES.name, version=tables.version(IMAGES.name))
    with kept(decide_winners(staged, images)) as winners:
        outcomes = _count_outcomes(winners)
        with kept(published_tags(staged, winners, tables.read(LABELS.name))) as new_tags:
            tags_published = new_tags.count()
            changes = [outcome for outcome in outcomes if outcome["tags_effect"] != "keep"]
            # Of images without a row nothing stands: roll-forward comes before every publish.
            known = any(outcome["known"] for outcome in changes)
            merge = Merge(tables=tables, note=note, lease=lease, all_new=not known)
            if any(outcome["staged_origin"] != "embedding" for outcome in changes):
                _merge_embeddings(merge, staged, winners)
            if changes:
                _merge_tags(merge, new_tags, winners)
        if any(outcome["verdict"] in CHANGING for outcome in outcomes):
            known = any(outcome["known"] for outcome in outcomes)
            _merge_images(replace(merge, all_new=not known), winners)
        if any(outcome["status"] == "erased" for outcome in outcomes):
            _drop_erased(tables, run.run_id, winners, note=note, lease=lease)
    return {**_summed(outcomes), "tags_published": tags_published}


def _count_facts(staged: DataFrame) -> tuple[int, int]:
    """Number of facts, and of the images they are about."""
    counted = staged.agg(F.count(F.lit(1)), F.count_distinct("image_id")).collect()[0]
    return counted[0], counted[1]


def published_tags(staged: DataFrame, winners: DataFrame, labels: DataFrame) -> DataFrame:
    """The tags that winning facts publish, or have published before.

    Args:
        staged: As :func:`pipeline.tagging.tags.tags_of` takes them.
        winners: image_id, verdict, tags_effect and staged_status.
        labels: As :func:`pipeline.tagging.tags.tags_of` takes them.

    Returns:
        The columns of ``image_tags`` and verdict.
    """
    wins = winners.where(
        (F.col("tags_effect") == "replace")
        | ((F.col("verdict") == "own") & (F.col("staged_status") == "tagged"))
    ).select("image_id", "verdict")
    return tags_of(staged, labels).join(wins, "image_id")


def _count_outcomes(winners: DataFrame) -> list[Row]:
    """How many facts met which fate: the columns below, and count."""
    fate = ("status", "verdict", "tags_effect", "known", "staged_status", "staged_origin")
    return winners.groupBy(*fate).count().collect()


def _summed(outcomes: list[Row]) -> dict[str, int]:
    counts = dict.fromkeys(_COUNTS, 0)
    for outcome in outcomes:
        if outcome["verdict"] not in WINNING:
            counts["superseded"] += outcome["count"]
        elif outcome["staged_origin"] in _COUNTED_BY_ORIGIN:
            counts[_COUNTED_BY_ORIGIN[outcome["staged_origin"]]] += outcome["count"]
        else:
            counts[outcome["staged_status"]] += outcome["count"]
    return counts


@dataclass(frozen=True, kw_only=True)
class Merge:
    """How a publish merges into its tables.

    Attributes:
        tables: The table set.
        note: Of its commits.
        lease: Of the table set.
        all_new: No image it changes has a row.
    """

    tables: TableSet
    note: str
    lease: Lease
    all_new: bool

    def into(self, table: TableDefinition, source: DataFrame, *, values: tuple[str, ...]) -> None:
        """MERGE; see :func:`pipeline.tables.merge.merge_rows`."""
        merge_rows(
            self.tables,
            table,
            source,
            values=values,
            note=self.note,
            lease=self.lease,
            all_new=self.all_new,
        )


def _merge_embeddings(merge: Merge, staged: DataFrame, winners: DataFrame) -> None:
    # What was scored again wins only while the embedding it was made from stands.
    looked = (F.col("tags_effect") != "keep") & (F.col("staged_origin") != "embedding")
    effects = winners.where(looked).select("image_id", "tags_effect", "known")
    gone = F.col("tags_effect") == "remove"
    source = (
        staged.select(*IMAGE_EMBEDDINGS.columns.names)
        .join(effects, "image_id")
        # Nothing stands of an image that is new, so there is nothing to remove.
        .where(~gone | F.col("known"))
        .withColumn("gone", gone)
        .drop("tags_effect", "known")
    )
    values = ("image_version", "model_version", "embedding")
    merge.into(IMAGE_EMBEDDINGS, source, values=values)


def _merge_tags(merge: Merge, new_tags: DataFrame, winners: DataFrame) -> None:
    """New tags, and delete markers for stale ones: there are none where no image is known."""
    new = new_tags.where(F.col("verdict") != "own").drop("verdict")
    source = new.withColumn("gone", F.lit(False))
    if not merge.all_new:
        stale = _stale_tags(merge.tables, new, winners)
        source = source.unionByName(stale.withColumn("gone", F.lit(True)))
    merge.into(IMAGE_TAGS, source, values=_TAG_VALUES)


def _stale_tags(tables: TableSet, new: DataFrame, winners: DataFrame) -> DataFrame:
    """The standing tags of the winners' images that are not among the new ones."""
    standing = tables.read(IMAGE_TAGS.name, version=tables.version(IMAGE_TAGS.name))
    known = winners.where((F.col("tags_effect") != "keep") & F.col("known")).select("image_id")
    return standing.join(known, "image_id", "left_semi").join(
        new.select(*IMAGE_TAGS.key), list(IMAGE_TAGS.key), "left_anti"
    )


def _merge_images(merge: Merge, winners: DataFrame) -> None:
    names = IMAGES.columns.names
    source = winners.where(F.col("verdict").isin(*CHANGING)).select(
        *names, F.lit(False).alias("gone")
    )
    merge.into(IMAGES, source, values=tuple(names))


def _drop_erased(
    tables: TableSet, run_id: str, winners: DataFrame, *, note: str, lease: Lease
) -> None:
    """Delete the run's facts of images that were erased after it had selected them."""
    ids = winners.where(F.col("status") == "erased").select("image_id")
    of_run = F.col("run_id") == run_id
    delete_rows(tables, TAGGING_RESULTS.name, ids, note=note, lease=lease, where=of_run)
