"""The plan of a run: every row it is asked about, with what is to do for it.

Rows come from the manifest, and from the tables where nobody names them: failures that are due for
another try, images that vanished from the feed, the whole catalogue of a backfill without manifest.

Columns of a plan: those of the manifest, and source, as_of, as_of_seq (when the version was
asserted), refetchable (whether clean_uri alone finds the image), asked_by and action; and known
(the result a row to tag may be answered from) where the model recalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import ManifestConfig
from pipeline.tagging.request import RunRequest
from pipeline.tagging.selection import ACTIVE, Action, Target, plan_actions

AskedBy = Literal["manifest", "tables", "retry", "missing"]
PlannedAction = Action | Literal["unreachable", "staged"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a run speaks.

    Attributes:
        as_of: The moment of the catalogue it speaks for.
        run_seq: Its order; ``LAST_SEQ`` before it has one.
    """

    as_of: datetime
    run_seq: int


@dataclass(frozen=True)
class PlanCounts:
    """Rows of a plan.

    Attributes:
        rows: By who asked and by action.
        known: Rows to tag of which a result of the same model stands.
    """

    rows: Mapping[tuple[str, str], int]
    known: int = 0

    def of(self, *actions: PlannedAction, asked_by: AskedBy | None = None) -> int:
        """Rows with one of the actions."""
        return sum(
            rows
            for (who, action), rows in self.rows.items()
            if action in actions and asked_by in (None, who)
        )

    @property
    def named(self) -> int:
        """Rows of the manifest; of the catalogue where there is none."""
        return sum(rows for (who, _), rows in self.rows.items() if who in ("manifest", "tables"))

    @property
    def passed_over(self) -> int:
        """Rows of the manifest, or the catalogue, that need nothing."""
        idle: tuple[PlannedAction, ...] = ("skip", "wait", "erased", "unreachable")
        return self.of(*idle, asked_by="manifest") + self.of(*idle, asked_by="tables")


def plan_rows(
    rows: DataFrame | None,
    images: DataFrame | None,
    request: RunRequest,
    moment: Moment,
    *,
    target: Target | None = None,
    recalled: str | None = None,
) -> DataFrame:
    """The plan, not yet cut to a limit.

    Args:
        rows: Canonical rows of the manifest; None: the whole catalogue of the tables.
        images: The table ``images``, at a version that stays the same; None before there is one.
        request: Ids, retries, what happens to images that vanished.
        moment: When the run speaks.
        target: What a backfill brings images to; None: no backfill.
        recalled: Version of a model that recalls; None: nothing is recalled.
    """
    feed = request.manifest
    if rows is None or feed is None:
        if images is None:
            raise ValueError("neither a manifest nor tables to take rows from")
        asked = _stored_rows(images.where(F.col("status").isin("tagged", "failed")), "tables")
    else:
        asked = _named_rows(rows, feed.source, moment)
        if images is not None and target is None and not request.force:
            asked = _with_unnamed(asked, images, feed, moment)
    if request.ids:
        asked = asked.where(F.col("image_id").isin(*request.ids))
    plan = plan_actions(
        asked,
        images,
        as_of=F.lit(moment.as_of),
        run_seq=F.lit(moment.run_seq),
        retry=request.retry,
        force=request.force,
        target=target,
        recalled=recalled,
    )
    return mark_unreachable(plan)


def mark_unreachable(plan: DataFrame) -> DataFrame:
    """A plan whose images to tag are ``unreachable`` where nobody says where they are."""
    return plan.withColumn("action", _reachable_action())


def cut_to_limit(plan: DataFrame, limit: int | None) -> DataFrame:
    """The plan with at most so many rows to do.

    The same images are taken whenever it is asked for, spread over the whole plan.
    """
    if limit is None:
        return plan
    active = F.col("action").isin(*ACTIVE)
    taken = plan.where(active).orderBy(F.xxhash64("image_id"), "image_id").limit(limit)
    return plan.where(~active).unionByName(taken)


def count_plan(plan: DataFrame) -> PlanCounts:
    """Rows of a plan by who asked and by action."""
    known = F.col("known").isNotNull() if "known" in plan.columns else F.lit(False)
    counted = (F.count(F.lit(1)).alias("rows"), F.count_if(known).alias("known"))
    found = plan.groupBy("asked_by", "action").agg(*counted).collect()
    return PlanCounts(
        {(row["asked_by"], row["action"]): row["rows"] for row in found},
        known=sum(row["known"] for row in found if row["action"] == "tag"),
    )


def missing_images(rows: DataFrame, images: DataFrame, *, source: str) -> DataFrame:
    """Rows of ``images`` of a feed that stand and that its manifest does not name."""
    standing = images.where(F.col("status").isin("tagged", "failed"))
    of_feed = standing.where(F.col("source") == source)
    return of_feed.join(rows.select("image_id"), "image_id", "left_anti")


def _named_rows(rows: DataFrame, source: str, moment: Moment) -> DataFrame:
    nothing_cut = F.col("uri").eqNullSafe(F.col("clean_uri")) & F.col("uri").isNotNull()
    alone = F.col("content").isNull() & F.col("text").isNull()
    return rows.withColumns(
        {
            "source": F.lit(source),
            "as_of": F.lit(moment.as_of),
            "as_of_seq": F.lit(moment.run_seq).cast("bigint"),
            "refetchable": nothing_cut & alone,
            "asked_by": F.lit("manifest"),
        }
    )


def _stored_rows(images: DataFrame, asked_by: AskedBy) -> DataFrame:
    """Rows of ``images`` as a manifest that names nothing new would have them."""
    return images.select(
        "image_id",
        "uri",
        F.lit(None).cast("binary").alias("content"),
        F.lit(None).cast("string").alias("text"),
        "image_version",
        F.col("uri").alias("clean_uri"),
        F.lit(False).alias("deleted"),
        F.lit(False).alias("contradicted"),
        "source",
        "as_of",
        "as_of_seq",
        F.coalesce("refetchable", F.lit(False)).alias("refetchable"),
        F.lit(asked_by).alias("asked_by"),
    )


def _with_unnamed(
    named: DataFrame, images: DataFrame, feed: ManifestConfig, moment: Moment
) -> DataFrame:
    """The rows the manifest names, and those of its feed that something is to do for unasked."""
    unnamed = missing_images(named, images, source=feed.source)
    if not feed.retire_missing:
        failing = unnamed.where((F.col("status") == "failed") & F.col("retriable"))
        return named.unionByName(_stored_rows(failing, "retry"))
    gone = {
        "image_version": F.lit(None).cast("string"),
        "deleted": F.lit(True),
        "as_of": F.lit(moment.as_of),
        "as_of_seq": F.lit(moment.run_seq).cast("bigint"),
    }
    return named.unionByName(_stored_rows(unnamed, "missing").withColumns(gone))


def _reachable_action() -> Column:
    """``unreachable``: to be tagged, but nobody says where the image is."""
    asked = F.col("asked_by").isin("tables", "retry")
    lost = asked & (F.col("action") == "tag") & ~F.col("refetchable")
    return F.when(lost, "unreachable").otherwise(F.col("action"))
