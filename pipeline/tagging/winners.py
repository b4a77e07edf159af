"""``decide()`` over columns: staged facts beside the rows of ``images`` they meet.

The rule itself is :func:`pipeline.tagging.decision.decide`; a test holds the two together.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.schemas import IMAGES

CHANGING = ("replace", "result", "failure", "assert")
"""Verdicts that change the row of ``images``."""

WINNING = ("replace", "result", "failure", "own")
"""Verdicts that are not counted as superseded."""

_SLIM = (
    "image_id",
    "source",
    "status",
    "origin",
    "image_version",
    "as_of",
    "as_of_seq",
    "run_as_of",
    "run_id",
    "run_seq",
    "embedding_seq",
    "model_version",
    "taxonomy_version",
    "tagged_at",
    "content_sha256",
    "width",
    "height",
    "uri",
    "refetchable",
    "reason",
    "detail",
    "retriable",
)
_NONE_YET = -1  # below every run_seq


def decide_winners(staged: DataFrame, images: DataFrame) -> DataFrame:
    """What publishing does with each staged fact.

    Args:
        staged: One row for each image_id, from :func:`pipeline.tagging.facts.staged_facts`.
        images: The table ``images``, at a version that stays the same.

    Returns:
        The columns of ``images`` as they shall be, and beside them verdict, tags_effect
        (``replace``, ``remove`` or ``keep``), known (the image had a row before),
        staged_status, staged_origin and has_text_tags (it failed, and has tags from its text).
    """
    has_text_tags = (F.col("status") == "failed") & F.col("tags").isNotNull()
    facts = staged.select(
        *(F.col(name).alias(f"s_{name}") for name in _SLIM),
        has_text_tags.alias("s_has_text_tags"),
    )
    standing = images.select(*(F.col(name).alias(f"t_{name}") for name in IMAGES.columns.names))
    met = facts.join(standing, F.col("s_image_id") == F.col("t_image_id"), "left")
    judged = met.withColumn("verdict", _verdict())
    return judged.select(
        *(column.alias(name) for name, column in _next_row().items()),
        "verdict",
        _tags_effect().alias("tags_effect"),
        F.col("t_image_id").isNotNull().alias("known"),
        _s("status").alias("staged_status"),
        _s("origin").alias("staged_origin"),
        _s("has_text_tags").alias("has_text_tags"),
    )


def _s(name: str) -> Column:
    return F.col(f"s_{name}")


def _t(name: str) -> Column:
    return F.col(f"t_{name}")


def _is(*verdicts: str) -> Column:
    return F.col("verdict").isin(*verdicts)


def _newer_moment() -> Column:
    return (_s("as_of") > _t("as_of")) | (
        (_s("as_of") == _t("as_of")) & (_s("as_of_seq") > _t("as_of_seq"))
    )


def _is_rescored() -> Column:
    return _s("embedding_seq") != _s("run_seq")


def _embedding_seq() -> Column:
    """Of the standing row; rows of schema version 1 were never scored again."""
    return F.coalesce(_t("embedding_seq"), _t("run_seq"), F.lit(_NONE_YET))


def _verdict() -> Column:
    result_seq = F.coalesce(_t("run_seq"), F.lit(_NONE_YET))
    failed_seq = F.coalesce(_t("failed_run_seq"), F.lit(_NONE_YET))
    same_picture = _s("image_version").eqNullSafe(_t("image_version"))
    still_stands = (
        F.coalesce(_t("status") == "tagged", F.lit(False))
        & same_picture
        & (_embedding_seq() == _s("embedding_seq"))
    )
    newer_result = (_s("status") == "tagged") & (
        (_s("embedding_seq") > _embedding_seq())
        | ((_s("embedding_seq") == _embedding_seq()) & (_s("run_seq") > result_seq))
    )
    newer_failure = (_s("status") == "failed") & (
        _s("run_seq") > F.greatest(_embedding_seq(), failed_seq)
    )
    loses = F.when(_newer_moment(), "assert").otherwise("superseded")
    return (
        F.when(_is_rescored() & ~still_stands, "superseded")
        .when(_t("image_id").isNull(), "replace")
        .when(_t("status") == "erased", "superseded")
        .when(~same_picture, F.when(_newer_moment(), "replace").otherwise("superseded"))
        .when((_s("run_seq") == result_seq) | (_s("run_seq") == failed_seq), "own")
        .when(newer_result, "result")
        .when(newer_failure, "failure")
        .otherwise(loses)
    )


def _tags_effect() -> Column:
    tagged = _s("status") == "tagged"
    fails_again = _is("failure") & (_t("status") == "failed")
    return (
        F.when(_is("replace", "result") & tagged, "replace")
        .when((_is("replace") | fails_again) & _s("has_text_tags"), "replace")
        .when(_is("replace"), "remove")
        .when(fails_again & _t("model_version").isNotNull(), "remove")
        .otherwise("keep")
    )


def _next_row() -> dict[str, Column]:
    replaces = _is("replace")
    moves = replaces | (_is("result", "failure", "assert") & _newer_moment())
    tagged, failed = _s("status") == "tagged", _s("status") == "failed"
    gives_result = _is("replace", "result") & tagged
    gives_run = gives_result | (replaces & (_s("status") == "deleted"))
    notes_failure = failed & _is("replace", "failure")
    clears_failure = (replaces & ~failed) | (
        _is("result") & ~(F.coalesce(_t("failed_run_seq"), F.lit(_NONE_YET)) > _s("embedding_seq"))
    )
    failing_before = ~replaces & _t("failed_run_seq").isNotNull()
    # Size and hash speak of the result; where there is none, of the last try.
    describes = gives_result | (notes_failure & (replaces | (_t("status") == "failed")))

    def asserted(name: str) -> Column:
        return F.when(moves, _s(name)).otherwise(_t(name))

    def result(name: str) -> Column:
        return F.when(gives_result, _s(name)).when(~replaces, _t(name))

    # A failed image names the model of the tags it has from its text.
    fails = notes_failure & (replaces | (_t("status") == "failed"))

    def model(name: str) -> Column:
        of_text = F.when(_s("has_text_tags"), _s(name))
        return F.when(fails, of_text).otherwise(result(name))

    def run(name: str) -> Column:
        return F.when(gives_run, _s(name)).when(~replaces, _t(name))

    def described(name: str) -> Column:
        return F.when(describes, _s(name)).when(~replaces, _t(name))

    def failure(name: str, noted: Column) -> Column:
        return F.when(notes_failure, noted).when(~clears_failure, _t(name))

    attempts = F.when(failing_before, _t("attempts") + 1).otherwise(1)
    first = F.when(failing_before, _t("first_failed_as_of")).otherwise(_s("run_as_of"))
    last = F.when(failing_before, F.greatest(_t("last_failed_as_of"), _s("run_as_of"))).otherwise(
        _s("run_as_of")
    )
    return {
        "image_id": _s("image_id"),
        "source": asserted("source"),
        "status": F.when(replaces | _is("result"), _s("status")).otherwise(_t("status")),
        "image_version": F.when(replaces, _s("image_version")).otherwise(_t("image_version")),
        "as_of": asserted("as_of"),
        "as_of_seq": asserted("as_of_seq"),
        "model_version": model("model_version"),
        "taxonomy_version": model("taxonomy_version"),
        "run_id": run("run_id"),
        "run_seq": run("run_seq"),
        "tagged_at": result("tagged_at"),
        "content_sha256": described("content_sha256"),
        "width": described("width"),
        "height": described("height"),
        "uri": asserted("uri"),
        "reason": failure("reason", _s("reason")),
        "detail": failure("detail", _s("detail")),
        "retriable": failure("retriable", _s("retriable")),
        "attempts": F.coalesce(failure("attempts", attempts), F.lit(0)),
        "failed_model_version": failure("failed_model_version", _s("model_version")),
        "failed_run_seq": failure("failed_run_seq", _s("run_seq")),
        "first_failed_as_of": failure("first_failed_as_of", first),
        "last_failed_as_of": failure("last_failed_as_of", last),
        "refetchable": asserted("refetchable"),
        "embedding_seq": result("embedding_seq"),
    }
