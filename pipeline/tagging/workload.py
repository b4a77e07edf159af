"""What a run has to do: its plan over the tables as they stand, cut and counted."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline import few_rows
from pipeline.tables.schemas import IMAGE_EMBEDDINGS, IMAGES, TAGGING_RESULTS
from pipeline.tagging.catalogue import Catalogue
from pipeline.tagging.facts import Tagger
from pipeline.tagging.planning import (
    Moment,
    PlanCounts,
    cut_to_limit,
    mark_unreachable,
    missing_images,
    plan_rows,
)
from pipeline.tagging.request import RunRequest
from pipeline.tagging.rescoring import find_rescorable, tag_where_nothing_stands
from pipeline.tagging.selection import Target
from pipeline.tagging.stage import staged_images


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked of a run.

    Attributes:
        catalogue: Tables and manifest.
        request: What to do with them.
        tagger: The model.
    """

    catalogue: Catalogue
    request: RunRequest
    tagger: Tagger

    def is_small(self) -> bool:
        """Whether all that is read is little: the manifest, and the tables that staging joins."""
        manifest = self.catalogue.manifest
        if manifest is not None and manifest.n_rows > few_rows.FEW_ROWS:
            return False
        joined = (IMAGES, IMAGE_EMBEDDINGS, TAGGING_RESULTS)
        size_bytes = sum(self.catalogue.tables.size_bytes(table.name) for table in joined)
        return size_bytes <= few_rows.FEW_BYTES

    def plan(
        self, images: DataFrame | None, moment: Moment, *, resumed: str | None = None
    ) -> DataFrame:
        """The rows of the run with their ``action``, no more active ones than its limit.

        Args:
            images: The table ``images``, at a version that stays the same; None before there is
                one.
            moment: When the run speaks.
            resumed: run_id of a run that may have staged some of them: ``staged``.
        """
        tables, limit = self.catalogue.tables, self.request.limit
        manifest = self.catalogue.manifest
        target = self.target(images)
        rows = manifest.rows if manifest else None
        recalls = self.tagger.recalls and not self.request.force
        plan = plan_rows(
            rows,
            images,
            self.request,
            moment,
            target=target,
            recalled=self.tagger.model_version if recalls else None,
        )
        if images is not None and target is not None and target.can_rescore:
            plan = mark_unreachable(tag_where_nothing_stands(plan, tables, self.tagger))
        if resumed is not None:
            staged = staged_images(tables, resumed)
            if limit is not None:
                limit = max(0, limit - staged.count())
            done = plan.join(staged, "image_id", "left_semi").withColumn("action", F.lit("staged"))
            plan = plan.join(staged, "image_id", "left_anti").unionByName(done)
        return cut_to_limit(plan, limit)

    def target(self, images: DataFrame | None) -> Target | None:
        """What a backfill brings images to; None for other runs."""
        if self.request.selection != "backfill":
            return None
        rescorable = None
        if images is not None:
            rescorable = find_rescorable(self.catalogue.tables, self.tagger)
        return Target(
            model_version=self.tagger.model_version,
            taxonomy_version=self.tagger.taxonomy.version,
            can_rescore=rescorable is None or bool(rescorable),
            rescorable=rescorable,
        )

    def count_missing(self, images: DataFrame) -> dict[str, int]:
        """How many images of the feed a complete manifest does not name; empty: it is not."""
        feed, manifest = self.request.manifest, self.catalogue.manifest
        if feed is None or manifest is None or not (feed.complete or feed.retire_missing):
            return {}
        return {"missing": missing_images(manifest.rows, images, source=feed.source).count()}


def ledger_counts(counts: PlanCounts) -> dict[str, int]:
    """What the ledger keeps of a plan."""
    return {
        "manifest_rows": counts.named,
        "skipped": counts.passed_over,
        "not_due": counts.of("wait", asked_by="manifest") + counts.of("wait", asked_by="tables"),
        "erased": counts.of("erased"),
        "superseded_before": counts.of("superseded"),
        "retried": counts.of("tag", asked_by="retry"),
        "retry_unreachable": counts.of("unreachable", asked_by="retry"),
        "unreachable": counts.of("unreachable", asked_by="tables"),
        "retired": counts.of("delete", asked_by="missing"),
    }


def in_words(counts: PlanCounts) -> str:
    """A plan in a line of the log."""
    return (
        f"{counts.of('tag')} to tag ({counts.known} known before),"
        f" {counts.of('rescore')} to score again,"
        f" {counts.of('delete')} to delete, {counts.of('contradict')} contradictory,"
        f" {counts.passed_over} skipped, {counts.of('superseded')} superseded"
    )
