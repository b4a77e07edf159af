"""Publishing a staged run: MERGE by key into image_embeddings, image_tags and, last, images.

Winners are decided once, against one version of ``images``, before the first table changes. Since
``images`` changes last, a publish that was cut off decides the same again; publishing twice changes
nothing. Needs nothing but the tables: thresholds come from the table ``labels``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
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
from pipeline.tagging.facts import count_facts, staged_facts, unique_facts
from pipeline.tagging.fates import RESCORED, Fate, count_fates, count_published
from pipeline.tagging.tags import tags_of
from pipeline.tagging.winners import CHANGING, decide_winners

_TAG_VALUES = ("score", "source", "image_version", "model_version", "taxonomy_version")
_FEW = 100_000  # ids that every task may have in memory

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
    # At one version: what a zombie task still appends must not make one image's facts two.
    staged = staged_facts(tables, run, version=tables.version(TAGGING_RESULTS.name))
    counts = count_facts(staged)
    if counts.facts == 0:
        return count_published({}, tags_published=0)
    staged = unique_facts(staged, counts)
    note = publish_note(run)
    labels = tables.read(LABELS.name)
    images = tables.read(IMAGES.name, version=tables.version(IMAGES.name))
    with kept(decide_winners(staged, images)) as winners:
        fates = count_fates(winners)
        replacing = replacing_facts(staged, winners, fates)
        new_tags = tags_of(replacing, labels)
        tags_published = 0
        # Of images without a row nothing stands: roll-forward comes before every publish.
        known = any(fate.known for fate in fates if fate.changes_tags)
        merge = Merge(tables=tables, note=note, lease=lease, all_new=not known)
        if any(fate.changes_embedding for fate in fates):
            _merge_embeddings(merge, replacing, winners)
        if any(fate.changes_tags for fate in fates):
            inserted = _merge_tags(merge, new_tags, winners)
            # Of a publish that was cut off and only inserts, they may all be there already.
            tags_published = inserted if merge.all_new and inserted else new_tags.count()
        if any(fate.changes_image for fate in fates):
            known = any(fate.known for fate in fates)
            _merge_images(replace(merge, all_new=not known), winners)
        if any(fate.is_published for fate in fates):
            tags_published += tags_of(_own_facts(staged, winners), labels).count()
        if any(fate.status == "erased" for fate in fates):
            _drop_erased(tables, run.run_id, winners, note=note, lease=lease)
    return count_published(fates, tags_published=tags_published)


def replacing_facts(staged: DataFrame, winners: DataFrame, fates: Mapping[Fate, int]) -> DataFrame:
    """The facts whose tags and embedding become those of their image: most of them, as a rule.

    So the others are taken away, and where there are none, nothing is joined.

    Args:
        staged: One fact for each image.
        winners: Of :func:`pipeline.tagging.winners.decide_winners`.
        fates: How many of them met which fate.
    """
    # Of a failed image, tags are those of its text.
    facts = staged.where((F.col("status") == "tagged") | F.col("tags").isNotNull())
    left_out = sum(met for fate, met in fates.items() if fate.gives_tags and not fate.replaces_tags)
    if left_out == 0:
        return facts
    gives = (F.col("staged_status") == "tagged") | F.col("has_text_tags")
    loses = gives & (F.col("tags_effect") != "replace")
    losers = winners.where(loses).select("image_id")
    return facts.join(F.broadcast(losers) if left_out <= _FEW else losers, "image_id", "left_anti")


def _own_facts(staged: DataFrame, winners: DataFrame) -> DataFrame:
    """Facts whose tags were published before."""
    from_text = F.col("has_text_tags") & (F.col("status") == "failed")
    gives = (F.col("staged_status") == "tagged") | from_text
    own = winners.where((F.col("verdict") == "own") & gives)
    return staged.join(own.select("image_id"), "image_id", "left_semi")


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

    def into(self, table: TableDefinition, source: DataFrame, *, values: tuple[str, ...]) -> int:
        """MERGE; see :func:`pipeline.tables.merge.merge_rows`."""
        return merge_rows(
            self.tables,
            table,
            source,
            values=values,
            note=self.note,
            lease=self.lease,
            all_new=self.all_new,
        )


def _merge_embeddings(merge: Merge, replacing: DataFrame, winners: DataFrame) -> None:
    # What was scored again wins only while the embedding it was made from stands.
    looked = replacing.where((F.col("status") == "tagged") & ~F.col("origin").isin(*RESCORED))
    source = looked.select(*IMAGE_EMBEDDINGS.columns.names, F.lit(False).alias("gone"))
    if not merge.all_new:
        from_text = (F.col("tags_effect") == "replace") & F.col("has_text_tags")
        gone = winners.where(((F.col("tags_effect") == "remove") | from_text) & F.col("known"))
        markers = gone.select("image_id", F.lit(True).alias("gone"))
        source = source.unionByName(markers, allowMissingColumns=True)
    values = ("image_version", "model_version", "embedding")
    merge.into(IMAGE_EMBEDDINGS, source, values=values)


def _merge_tags(merge: Merge, new: DataFrame, winners: DataFrame) -> int:
    """New tags, and delete markers for stale ones: there are none where no image is known.

    Returns:
        Number of tags that were inserted.
    """
    source = new.withColumn("gone", F.lit(False))
    if not merge.all_new:
        stale = _stale_tags(merge.tables, new, winners)
        source = source.unionByName(stale.withColumn("gone", F.lit(True)))
    return merge.into(IMAGE_TAGS, source, values=_TAG_VALUES)


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
