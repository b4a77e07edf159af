"""What a run has to do for each manifest row: subtract what the tables hold already.

``choose`` is the rule as a pure function; ``plan_actions`` is the same rule over columns, and a
test holds the two together. A model or taxonomy that moved is no reason to tag again here: that is
a backfill's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import RetryConfig
from pipeline.tagging.decision import Standing
from pipeline.tagging.request import RunRequest

Action = Literal["tag", "delete", "contradict", "skip", "wait", "superseded", "erased"]

ACTIVE: tuple[Action, ...] = ("tag", "delete", "contradict")
"""Actions that stage a fact."""

LAST_SEQ = 2**63 - 1
"""The run_seq of a run that has not started: later than all that have."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the manifest says of an image.

    Attributes:
        image_version: None where it is deleted.
        as_of: The moment the manifest speaks for.
        run_seq: Order of the run; ``LAST_SEQ`` before it has one.
        deleted: The image left the catalogue.
        contradicted: Rows of the manifest contradict each other about it.
    """

    image_version: str | None
    as_of: datetime
    run_seq: int = LAST_SEQ
    deleted: bool = False
    contradicted: bool = False


def choose(
    standing: Standing | None, wanted: Wanted, *, retry: RetryConfig, force: bool = False
) -> Action:
    """What to do for one image.

    ``wait``: it failed, and another try is not due, cannot help, or was made often enough.
    ``superseded``: a newer picture or result stands.
    """
    act: Action = "delete" if wanted.deleted else "contradict" if wanted.contradicted else "tag"
    if standing is None:
        return act
    if standing.status == "erased":
        return "erased"
    if standing.image_version != wanted.image_version:
        newer = (wanted.as_of, wanted.run_seq) > (standing.as_of, standing.as_of_seq)
        return act if newer else "superseded"
    if standing.status == "deleted":
        return "skip"
    failure = standing.failure
    if force:
        latest = max(standing.run_seq or 0, failure.run_seq if failure else 0)
        return act if wanted.run_seq > latest else "superseded"
    if standing.status == "tagged" or failure is None:
        return "skip"
    distance = timedelta(hours=retry.distance_h * retry.factor ** (failure.attempts - 1))
    due = (
        failure.retriable
        and failure.attempts < retry.max_attempts
        and wanted.as_of >= failure.last_as_of + distance
        and wanted.run_seq > failure.run_seq
    )
    return act if due else "wait"


def select_rows(
    rows: DataFrame,
    images: DataFrame | None,
    request: RunRequest,
    *,
    as_of: datetime,
    run_seq: int,
) -> DataFrame:
    """Canonical manifest rows with their ``action``, cut to the ids and the limit asked for.

    The limit takes the same images whenever it is asked for, spread over the whole manifest.
    """
    if request.ids:
        rows = rows.where(F.col("image_id").isin(*request.ids))
    plan = plan_actions(
        rows, images, as_of=as_of, run_seq=run_seq, retry=request.retry, force=request.force
    )
    if request.limit is None:
        return plan
    active = F.col("action").isin(*ACTIVE)
    taken = plan.where(active).orderBy(F.xxhash64("image_id"), "image_id").limit(request.limit)
    return plan.where(~active).unionByName(taken)


def count_actions(plan: DataFrame) -> dict[str, int]:
    """Rows of a plan by action; every action is named."""
    counts: dict[str, int] = dict.fromkeys(get_args(Action), 0)
    counts.update({row["action"]: row["count"] for row in plan.groupBy("action").count().collect()})
    return counts


STANDING_COLUMNS = (
    "image_id",
    "status",
    "image_version",
    "as_of",
    "as_of_seq",
    "run_seq",
    "retriable",
    "attempts",
    "failed_run_seq",
    "last_failed_as_of",
)


def plan_actions(
    manifest: DataFrame,
    images: DataFrame | None,
    *,
    as_of: datetime,
    run_seq: int,
    retry: RetryConfig,
    force: bool = False,
) -> DataFrame:
    """The manifest with a column ``action``.

    Args:
        manifest: Canonical rows: image_id, image_version, deleted, contradicted, and others that
            are passed through.
        images: The table ``images``; None where it does not exist yet.
        as_of: The moment the manifest speaks for.
        run_seq: Order of the run; ``LAST_SEQ`` before it has one.
        retry: When failures are due.
        force: Tag again what stands.

    Returns:
        One row for each of ``manifest``.
    """
    act = F.when(F.col("deleted"), "delete").when(F.col("contradicted"), "contradict")
    act = act.otherwise("tag")
    if images is None:
        return manifest.withColumn("action", act)
    standing = images.select(*(F.col(name).alias(f"standing_{name}") for name in STANDING_COLUMNS))
    joined = manifest.join(standing, F.col("image_id") == F.col("standing_image_id"), "left")
    action = _action(act, as_of=F.lit(as_of), run_seq=F.lit(run_seq), retry=retry, force=force)
    return joined.withColumn("action", action).drop(*standing.columns)


def _action(
    act: Column, *, as_of: Column, run_seq: Column, retry: RetryConfig, force: bool
) -> Column:
    """``choose`` over the columns of a manifest row and the ``standing_`` columns beside it."""

    def standing(name: str) -> Column:
        return F.col(f"standing_{name}")

    never = F.lit(0)
    same_picture = standing("image_version").eqNullSafe(F.col("image_version"))
    newer_moment = (as_of > standing("as_of")) | (
        (as_of == standing("as_of")) & (run_seq > standing("as_of_seq"))
    )
    failed_seq = F.coalesce(standing("failed_run_seq"), never)
    latest_seq = F.greatest(F.coalesce(standing("run_seq"), never), failed_seq)
    distance_s = (
        3600.0 * retry.distance_h * F.pow(F.lit(retry.factor), standing("attempts") - F.lit(1))
    )
    due = (
        F.coalesce(standing("retriable"), F.lit(False))
        & (standing("attempts") < retry.max_attempts)
        & (
            F.unix_micros(as_of)
            >= F.unix_micros(standing("last_failed_as_of")) + distance_s * F.lit(1_000_000)
        )
        & (run_seq > failed_seq)
    )
    action = (
        F.when(standing("image_id").isNull(), act)
        .when(standing("status") == "erased", "erased")
        .when(~same_picture, F.when(newer_moment, act).otherwise("superseded"))
        .when(standing("status") == "deleted", "skip")
    )
    if force:
        return action.otherwise(F.when(run_seq > latest_seq, act).otherwise("superseded"))
    return action.when(standing("status") == "tagged", "skip").otherwise(
        F.when(due, act).otherwise("wait")
    )
