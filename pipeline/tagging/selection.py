"""What a run has to do for each row it is asked about: subtract what the tables hold already.

``choose`` is the rule as a pure function; ``plan_actions`` is the same rule over columns, and a
test holds the two together. A model or taxonomy that moved is a reason to tag again for a backfill
only, which has a ``Target``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import RetryConfig
from pipeline.tagging.decision import FailureState, Standing

Action = Literal["tag", "rescore", "delete", "contradict", "skip", "wait", "superseded", "erased"]

ACTIVE: tuple[Action, ...] = ("tag", "rescore", "delete", "contradict")
"""Actions that stage a fact."""

LAST_SEQ = 2**63 - 1
"""The run_seq of a run that has not started: later than all that have."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a backfill brings images to.

    Attributes:
        model_version: The model.
        taxonomy_version: The taxonomy.
        can_rescore: Whether the model's scores can be made without it.
        rescorable: Taxonomies whose results are enough for that; None: every one.
    """

    model_version: str
    taxonomy_version: str
    can_rescore: bool
    rescorable: frozenset[str] | None = None

    def rescores(self, taxonomy_version: str | None) -> bool:
        """Whether results of that taxonomy can be scored again."""
        return self.can_rescore and (self.rescorable is None or taxonomy_version in self.rescorable)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked about an image.

    Attributes:
        image_version: None where it is deleted.
        as_of: The moment the run speaks for.
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
    standing: Standing | None,
    wanted: Wanted,
    *,
    retry: RetryConfig,
    force: bool = False,
    target: Target | None = None,
) -> Action:
    """What to do for one image.

    ``rescore``: make its scores again from the embedding that stands. ``wait``: it failed, and
    another try is not due, cannot help, or was made often enough. ``superseded``: a newer picture
    or result stands.
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
    looked_seq = max(standing.embedding_seq or 0, failure.run_seq if failure else 0)
    look = act if wanted.run_seq > looked_seq else "superseded"
    if force:
        return look
    if target is None:
        if standing.status == "tagged" or failure is None:
            return "skip"
        return act if _is_due(failure, wanted, retry) else "wait"
    same_taxonomy = standing.taxonomy_version == target.taxonomy_version
    if standing.status == "tagged" and standing.model_version == target.model_version:
        if same_taxonomy:
            return "skip"
        if target.rescores(standing.taxonomy_version):
            return "rescore" if wanted.run_seq > (standing.run_seq or 0) else "superseded"
    # A failed image may have tags from its text, of a taxonomy that is not the target's.
    outdated = standing.status == "failed" and standing.model_version and not same_taxonomy
    if failure is not None and failure.model_version == target.model_version and not outdated:
        return act if _is_due(failure, wanted, retry) else "wait"
    return look


def _is_due(failure: FailureState, wanted: Wanted, retry: RetryConfig) -> bool:
    distance = timedelta(hours=retry.distance_h * retry.factor ** (failure.attempts - 1))
    return (
        failure.retriable
        and failure.attempts < retry.max_attempts
        and wanted.as_of >= failure.last_as_of + distance
        and wanted.run_seq > failure.run_seq
    )


STANDING_COLUMNS = (
    "image_id",
    "status",
    "image_version",
    "as_of",
    "as_of_seq",
    "model_version",
    "taxonomy_version",
    "run_seq",
    "embedding_seq",
    "retriable",
    "attempts",
    "failed_model_version",
    "failed_run_seq",
    "last_failed_as_of",
)


KNOWN_COLUMNS = (
    "image_version",
    "embedding_seq",
    "content_sha256",
    "width",
    "height",
)
"""What is kept of a result whose image may still be the same: enough to find its embedding."""


def plan_actions(
    rows: DataFrame,
    images: DataFrame | None,
    *,
    as_of: Column,
    run_seq: Column,
    retry: RetryConfig,
    force: bool = False,
    target: Target | None = None,
    recalled: str | None = None,
) -> DataFrame:
    """Rows with a column ``action``.

    Args:
        rows: image_id, image_version, deleted, contradicted, and others that are passed through.
        images: The table ``images``; None where it does not exist yet.
        as_of: The moment the run speaks for.
        run_seq: Order of the run; ``LAST_SEQ`` before it has one.
        retry: When failures are due.
        force: Tag again what stands.
        target: What a backfill brings images to; None: no backfill.
        recalled: A model_version: rows to tag get a struct ``known``, ``KNOWN_COLUMNS`` of the
            result of that model that stands of their image, null without one.

    Returns:
        One row for each of ``rows``.
    """
    act = F.when(F.col("deleted"), "delete").when(F.col("contradicted"), "contradict")
    act = act.otherwise("tag")
    if images is None:
        return rows.withColumn("action", act)
    names = dict.fromkeys((*STANDING_COLUMNS, *(KNOWN_COLUMNS if recalled else ())))
    standing = images.select(*(F.col(name).alias(f"standing_{name}") for name in names))
    joined = rows.join(standing, F.col("image_id") == F.col("standing_image_id"), "left")
    rule = _Rule(act=act, as_of=as_of, run_seq=run_seq, retry=retry)
    action = rule.action(force=force, target=target)
    planned = joined.withColumn("action", action)
    if recalled is not None:
        planned = planned.withColumn("known", _known(recalled))
    return planned.drop(*standing.columns)


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """``choose`` over the columns of a row and the ``standing_`` columns beside it."""

    act: Column
    as_of: Column
    run_seq: Column
    retry: RetryConfig

    def action(self, *, force: bool, target: Target | None) -> Column:
        same_picture = _standing("image_version").eqNullSafe(F.col("image_version"))
        newer_moment = (self.as_of > _standing("as_of")) | (
            (self.as_of == _standing("as_of")) & (self.run_seq > _standing("as_of_seq"))
        )
        action = (
            F.when(_standing("image_id").isNull(), self.act)
            .when(_standing("status") == "erased", "erased")
            .when(~same_picture, F.when(newer_moment, self.act).otherwise("superseded"))
            .when(_standing("status") == "deleted", "skip")
        )
        looked_seq = F.greatest(_seq("embedding_seq", "run_seq"), _seq("failed_run_seq"))
        look = F.when(self.run_seq > looked_seq, self.act).otherwise("superseded")
        if force:
            return action.otherwise(look)
        due = F.when(self._is_due(), self.act).otherwise("wait")
        if target is None:
            return action.when(_standing("status") == "tagged", "skip").otherwise(due)
        tagged, model = _standing("status") == "tagged", _standing("model_version")
        same_model = tagged & _is(model, target.model_version)
        same_taxonomy = _is(_standing("taxonomy_version"), target.taxonomy_version)
        action = action.when(same_model & same_taxonomy, "skip")
        if target.can_rescore:
            newer, enough = self.run_seq > _seq("run_seq"), F.lit(True)
            if target.rescorable is not None:
                enough = _standing("taxonomy_version").isin(*sorted(target.rescorable))
            again = F.when(newer, "rescore").otherwise("superseded")
            action = action.when(same_model & F.coalesce(enough, F.lit(False)), again)
        outdated = ~tagged & model.isNotNull() & ~same_taxonomy
        failed_here = _is(_standing("failed_model_version"), target.model_version) & ~outdated
        return action.when(failed_here, due).otherwise(look)

    def _is_due(self) -> Column:
        tries = _standing("attempts") - F.lit(1)
        distance_s = 3600.0 * self.retry.distance_h * F.pow(F.lit(self.retry.factor), tries)
        return (
            F.coalesce(_standing("retriable"), F.lit(False))
            & (_standing("attempts") < self.retry.max_attempts)
            & (
                F.unix_micros(self.as_of)
                >= F.unix_micros(_standing("last_failed_as_of")) + distance_s * F.lit(1_000_000)
            )
            & (self.run_seq > _seq("failed_run_seq"))
        )


def _standing(name: str) -> Column:
    return F.col(f"standing_{name}")


def _known(model_version: str) -> Column:
    """The result a row to tag may be answered from, as long as the image's bytes are the same."""
    stands = (_standing("status") == "tagged") & _is(_standing("model_version"), model_version)
    for name in ("content_sha256", "width", "height"):
        stands = stands & _standing(name).isNotNull()
    known = {name: _standing(name) for name in KNOWN_COLUMNS}
    known["embedding_seq"] = _seq("embedding_seq", "run_seq")
    told = F.struct(*(column.alias(name) for name, column in known.items()))
    return F.when((F.col("action") == "tag") & stands, told)


def _seq(*names: str) -> Column:
    """The first of the standing numbers that is there; 0, below every run, without one."""
    return F.coalesce(*(_standing(name) for name in names), F.lit(0))


def _is(column: Column, value: str) -> Column:
    return column.eqNullSafe(F.lit(value))
